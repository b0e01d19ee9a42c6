"Knowledge files: what they hold, what is wrong with a row, and the sources they are made from"
import contextlib
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import shared
from medals.cli import main
from medals.core import UserError
from medals.pretraining.knowledge import (Concept, check_knowledge, meanings, provenance, read_knowledge, table_rows, trouble,
                              write_knowledge)
from medals.pretraining.sources import KnowledgeCfg, csv_rows, source_kind, make_knowledge, ontology_rows, umls_rows
from medals.vocab import resolve

prompts = shared/'data'/'biomedsegfm_prompts.json'


def run(*argv):
    "Exit code, stdout and stderr of the command"
    out,err = io.StringIO(),io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(['knowledge', *map(str, argv)])
    return code,out.getvalue(),err.getvalue()


# ---- rows
text = st.text(min_size=1, max_size=20).filter(str.strip)
texts = st.lists(text, max_size=3).map(tuple)
concepts = st.builds(
    Concept, id=text, names=st.lists(text, min_size=1, max_size=3).map(tuple), synonyms=texts, definitions=texts,
    relations=st.lists(st.tuples(text, text), max_size=2).map(tuple), side=st.sampled_from([None,'left','right']),
    modality=st.lists(st.sampled_from(['ct','mri']), unique=True).map(tuple), region=st.none()|text, source=text, licence=text)
wrong = st.sampled_from([
    ('names', []), ('names', 'liver'), ('names', [1]), ('synonyms', None), ('definitions', 'makes bile'), ('definitions', [float('nan')]),
    ('definitions', ['']), ('relations', [['part of']]), ('relations', ['part of liver']), ('side', 'L'), ('side', 1), ('modality', 'ct'),
    ('modality', ['xray']), ('region', 3), ('source', ''), ('licence', None), ('id', ' '), ('synonym', ['x'])])


@settings(max_examples=60, deadline=None)
@given(st.lists(concepts, min_size=1, max_size=5), st.data())
def test_rows_come_back_and_each_bad_one_gets_one_sentence(tmp_path_factory, rows, data):
    file = tmp_path_factory.mktemp('k')/'k.jsonl'
    assert write_knowledge(file, rows)==len(rows)
    assert read_knowledge(file)==rows and check_knowledge(file)==[]
    lines = file.read_text(encoding='utf-8').split('\n')[:-1]
    bad = {i: data.draw(wrong) for i in data.draw(st.sets(st.integers(0, len(rows)-1), min_size=1))}
    for i,(key,value) in bad.items(): lines[i] = json.dumps(json.loads(lines[i])|{key: value})
    broken = data.draw(st.sampled_from(['{"id": ', '[]', 'null', '"liver"']))
    file.write_text('\n'.join([*lines, '', broken, ''])+'\n', encoding='utf-8')
    said = check_knowledge(file)
    assert [int(o.split(':')[0].removeprefix('line ')) for o in said]==[*(i+1 for i in sorted(bad)), len(rows)+2]
    for (key,_),o in zip((bad[i] for i in sorted(bad)), said): assert key in o or key=='names' and 'name' in o
    with pytest.raises(UserError, match=f'{len(said)} bad row'): read_knowledge(file)


def test_the_table_as_knowledge_says_what_the_vocabulary_understands():
    rows = list(table_rows())
    assert not [o for c in rows if (o := trouble(c.row))] and len({c.id for c in rows})==len(rows)
    asked = [(o, c) for c in rows for o in c.names]
    def right(text, c):
        got = resolve(text, c.modality[0])
        return c.id==f'medals:{got.structure}'+(f'/{got.side}' if got.side else '')
    bad = [o for o,c in asked if not right(o, c)]
    assert len(asked)>4000 and len(bad)<.005*len(asked), bad
    linked = {o[1] for c in rows for o in c.relations if o[1].startswith('medals:')}
    assert linked<={c.id for c in rows}


@pytest.mark.skipif(not prompts.exists(), reason=f'no prompt file of the challenge at {prompts}')
def test_a_prompt_file_keeps_its_sentences_and_joins_what_means_the_same(tmp_path):
    made,notes = make_knowledge([prompts], KnowledgeCfg(out=str(tmp_path/'p.jsonl')))
    rows = read_knowledge(tmp_path/'p.jsonl')
    d = json.loads(prompts.read_text())
    want = {' '.join(s.split()) for v in d.values() for k,o in v.items() if k!='instance_label' for s in o} # one has two spaces
    assert {o for c in rows for o in (*c.names, *c.synonyms)}==want
    kidney = [c for c in rows if c.id=='medals:kidney/left']
    assert len(kidney)>5 and {m for c in kidney for m in c.modality}=={'ct','mri'} and all(c.side=='left' for c in kidney)
    assert len(set(meanings(rows)))==len({c.id for c in rows}) and any('licence' in o for o in notes)


def test_things_of_two_sources_are_joined_by_their_standard_terms_only():
    a = dict(source='A', licence='CC0')
    b = dict(source='B, part 1', licence='CC BY 4.0')
    rows = [Concept(id='A:1', names=('Liver',), **a), Concept(id='A:2', names=('cold',), **a), Concept(id='A:3', names=('cold',), **a),
            Concept(id='B:1', names=('hepar','liver'), **b), Concept(id='B:2', names=('bile maker',), synonyms=('liver',), **b),
            Concept(id='A:1', names=('Leber',), **a), Concept(id='B:1', names=('foie',), **b)]
    assert meanings(rows)==[0,1,2,0,3,0,0]
    assert provenance(rows)[0]==dict(source='A', licence='CC0', rows=4)


# ---- ontologies
OBO = '''format-version: 1.4
ontology: uberon
data-version: uberon/releases/2026-04-01/uberon.owl
property_value: http://purl.org/dc/terms/license http://creativecommons.org/licenses/by/3.0/
synonymtypedef: LATIN "Latin" RELATED

[Term]
id: UBERON:0002107
name: liver
def: "An exocrine gland which secretes bile, and \\"more\\"." [GO:1, http://en.wikipedia.org/wiki/Liver]
synonym: "jecur" RELATED LATIN []
synonym: "hepar" EXACT []
is_a: UBERON:0000062 ! organ
relationship: part_of UBERON:0002423 ! hepatobiliary system

[Term]
id: UBERON:0002423
name: hepatobiliary system
def: "." []

[Term]
id: UBERON:0000062
name: organ

[Term]
id: UBERON:0000001
name: something from before
is_obsolete: true

[Typedef]
id: part_of
name: part of
'''


def graph():
    "The same as ROBOT writes it in JSON"
    def iri(name): return f'http://purl.obolibrary.org/obo/{name}'
    def synonym(kind, val): return dict(pred=f'has{kind}Synonym', val=val)
    synonyms = [synonym('Related', 'jecur'), synonym('Exact', 'hepar')]
    liver = dict(definition=dict(val='An exocrine gland which secretes bile, and "more".'), synonyms=synonyms)
    nodes = [('UBERON_0002107','liver',liver), ('UBERON_0002423','hepatobiliary system',{}), ('UBERON_0000062','organ',{}),
             ('UBERON_0000001','something from before',dict(deprecated=True))]
    part = dict(id=iri('BFO_0000050'), lbl='part of', type='PROPERTY')
    edges = [('is_a','UBERON_0000062'), (iri('BFO_0000050'),'UBERON_0002423')]
    return dict(graphs=[dict(id=iri('uberon.owl'), nodes=[dict(id=iri(k), lbl=v, type='CLASS', meta=m) for k,v,m in nodes]+[part],
                             edges=[dict(sub=iri('UBERON_0002107'), pred=p, obj=iri(o)) for p,o in edges])])


def test_an_ontology_says_the_same_in_obo_and_as_a_graph(tmp_path):
    pytest.importorskip('pronto')
    (tmp_path/'u.obo').write_text(OBO)
    (tmp_path/'u.json').write_text(json.dumps(graph()))
    with gzip.open(tmp_path/'u.obo.gz', 'wt') as file: file.write(OBO)
    notes = []
    one,other,packed = (list(ontology_rows(tmp_path/o, KnowledgeCfg(), notes)) for o in ('u.obo','u.json','u.obo.gz'))
    assert source_kind(tmp_path/'u.json')==source_kind(tmp_path/'u.obo.gz')=='ontology'
    def said(rows): return {c.id: (c.names, c.synonyms, c.definitions, c.relations) for c in rows}
    assert one==packed and said(other)==said(one) and len(one)==3 and notes==['1 obsolete terms are left out']*3
    liver = next(c for c in one if c.id=='UBERON:0002107')
    assert liver==Concept(
        id='UBERON:0002107', names=('liver',), synonyms=('hepar','jecur'),
        definitions=('An exocrine gland which secretes bile, and "more".',),
        relations=(('is a','UBERON:0000062'), ('part of','UBERON:0002423')), source='uberon/releases/2026-04-01/uberon.owl',
        licence='http://creativecommons.org/licenses/by/3.0/')


HEAD = '''<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:owl="http://www.w3.org/2002/07/owl#"
 xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#" xmlns:x="{0}"><owl:Ontology rdf:about="{0}">
 <owl:imports rdf:resource="http://nowhere.invalid/other.owl"/></owl:Ontology><owl:ObjectProperty rdf:about="{0}regional_part_of"/>'''
FMA = '''<owl:Class rdf:about="{0}fma7197"><rdfs:label>Liver</rdfs:label><x:preferred_name>Liver</x:preferred_name>
 <x:synonym>Hepar</x:synonym><x:non-English_equivalent>Leber</x:non-English_equivalent>
 <x:definition rdf:parseType="Literal">Lobular organ.</x:definition>
 <x:regional_part_of rdf:resource="{0}fma9577"/></owl:Class>
<owl:Class rdf:about="{0}fma9577"><rdfs:label>Abdomen</rdfs:label></owl:Class><owl:Class rdf:about="{0}fma1"/>'''
RADLEX = '''<owl:Class rdf:about="{0}RID58"><x:Preferred_name xml:lang="en">left kidney</x:Preferred_name><x:Synonym>left ren</x:Synonym>
 <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="{0}regional_part_of"/><owl:someValuesFrom rdf:resource="{0}RID1"/>
 </owl:Restriction></rdfs:subClassOf></owl:Class><owl:Class rdf:about="{0}RID1"><x:Preferred_name>abdomen</x:Preferred_name></owl:Class>'''


@pytest.mark.parametrize('body,base,want', [
    (FMA, 'http://purl.org/sig/ont/fma/', ('Liver', ('Hepar','Leber'), ('Lobular organ.',), 'regional part of', None)),
    (RADLEX, 'http://www.radlex.org/RID/', ('left kidney', ('left ren',), (), 'regional part of', 'left'))])
def test_anatomies_that_name_things_in_their_own_way(tmp_path, body, base, want):
    "Names in annotations, relations as links or restrictions; what is imported is not fetched"
    pytest.importorskip('pronto')
    (tmp_path/'a.owl').write_text((HEAD+body).format(base)+'</rdf:RDF>')
    notes = []
    first = next(ontology_rows(tmp_path/'a.owl', KnowledgeCfg(), notes))
    assert (first.names[0], tuple(sorted(first.synonyms)), first.definitions, first.relations[0][0], first.side)==want
    if body is FMA: assert notes==['1 terms without a name are left out']


def test_what_is_no_ontology_is_said_in_a_sentence(tmp_path):
    pytest.importorskip('pronto')
    for name,content in (('a.obo', '[Term\nid'), ('b.owl', '<html></html>'), ('c.owl', '')):
        (tmp_path/name).write_text(content)
        code,_,err = run(tmp_path/name, '-o', tmp_path/'out.jsonl')
        assert code==2 and err.count('\n')==1 and 'cannot be read as an ontology' in err and not (tmp_path/'out.jsonl').exists(), err


# ---- the UMLS
CONSO = '''C0023884|ENG|P|L1|PF|S1|Y|A1||||FMA|PT|7197|Liver|0|N||
C0023884|ENG|S|L2|VO|S2|Y|A2||||SNOMEDCT_US|SY|1|Hepatic organ|9|N||
C0023884|ENG|P|L1|PF|S9|N|A9||||MSH|PT|1|Liver|0|N||
C0023884|GER|P|L3|PF|S3|Y|A3||||MSHGER|PT|1|Leber|3|N||
C0023884|ENG|S|L4|VO|S4|Y|A4||||MSH|PT|1|Livers, old|0|O||
C0000726|ENG|P|L5|PF|S5|Y|A5||||FMA|PT|9577|Abdomen|0|N||
C0011900|ENG|P|L6|PF|S6|Y|A6||||MSH|PT|3|Diagnosis|0|N||
'''
DEF = 'C0023884|A1|AT1||MSH|A large organ.|N||\nC0023884|A1|AT2||NCI|Old words.|O||\n'
REL = '''C0000726|A5|CUI|RN|C0023884|A1|CUI|part_of|R1||FMA|FMA|||N||
C0023884|A1|CUI|RB|C0000726|A5|CUI|has_part|R2||FMA|FMA|||N||
C0000726|A5|CUI|RO|C9999999|A7|CUI|part_of|R3||FMA|FMA|||N||
C0000726|A5|CUI|RO|C0011900|A6|CUI||R4||MSH|MSH|||N||
'''


@pytest.fixture()
def umls(tmp_path):
    for name,content in dict(MRCONSO=CONSO, MRDEF=DEF, MRREL=REL, MRSTY='C0023884|T023|A|x|AT||\nC0000726|T029|A|x|AT||\n').items():
        (tmp_path/f'{name}.RRF').write_text(content)
    return tmp_path


def test_the_umls_names_definitions_and_the_way_relations_point(umls):
    notes = []
    rows = {c.id: c for c in umls_rows(umls, KnowledgeCfg(languages='ENG,GER', types='T023,T029'), notes)}
    liver,abdomen = rows['UMLS:C0023884'],rows['UMLS:C0000726']
    assert len(rows)==2 and not notes
    assert (liver.names, liver.synonyms, liver.definitions)==(('Liver',), ('Hepatic organ','Leber'), ('A large organ.',))
    assert liver.relations==(('part of','UMLS:C0000726'),) and abdomen.relations==(('has part','UMLS:C0023884'),)
    assert liver.licence.endswith('level 9') and abdomen.licence.endswith('level 0') and 'SNOMEDCT_US' in liver.source
    only = {c.id: c for c in umls_rows(umls, KnowledgeCfg(vocabularies='FMA'), notes)}
    assert set(only)==set(rows) and only['UMLS:C0023884'].synonyms==() and only['UMLS:C0023884'].definitions==()
    german = list(umls_rows(umls, KnowledgeCfg(languages='GER,ENG', types='T023'), notes))
    assert german[0].names==('Leber',) and german[0].relations==()


def test_a_umls_that_is_cut_or_empty_is_said(umls):
    with gzip.open(umls/'MRCONSO.RRF.gz', 'wt') as file: file.write(CONSO+'C0000727|ENG|P')
    (umls/'MRCONSO.RRF').unlink()
    code,_,err = run(umls, '-o', umls/'out.jsonl')
    assert code==2 and 'line 8' in err and 'whole' in err and not (umls/'out.jsonl').exists()
    (umls/'MRCONSO.RRF').write_text(CONSO)
    assert run(umls, '-o', umls/'out.jsonl', '--languages', 'FRE')[0]==2
    (umls/'MRSTY.RRF').unlink()
    assert 'MRSTY' in run(umls, '-o', umls/'out.jsonl', '--types', 'T023')[2]


def test_what_a_umls_row_says_decides_its_licence_and_language(umls):
    "A definition has no language of its own, and may be under stricter terms than the names"
    table = umls/'MRDEF.RRF'
    spanish,english = 'C0000726|A1|AT1||MSHSPA|Glándula grande.|N||\n','C0000726|A2|AT2||SNOMEDCT_US|Between chest\u00a0 and pelvis.|N||\n'
    table.write_text(spanish+english+'\n', encoding='utf-8')
    (umls/'META').mkdir()
    (umls/'MRCONSO.RRF').unlink()
    blank = 'C0000726|ENG|S|L7|VO|S7|Y|A7||||FMA|SY|1| |0|N||\n\n'
    with gzip.open(umls/'META'/'MRCONSO.RRF.gz', 'wt', encoding='utf-8') as file: file.write(CONSO+blank)
    rows = {c.id: c for c in umls_rows(umls, KnowledgeCfg(types='T029'), [])}
    abdomen = rows['UMLS:C0000726']
    assert (abdomen.names, abdomen.synonyms, abdomen.definitions)==(('Abdomen',), (), ('Between chest and pelvis.',))
    assert abdomen.source=='UMLS, FMA SNOMEDCT_US' and abdomen.licence.endswith('level 9') and not trouble(abdomen.row)


# ---- tables
@pytest.mark.parametrize('separator', (',', ';', '\t'))
def test_tables_in_every_shape(tmp_path, separator):
    "A file of a spreadsheet, one of BioPortal, and the two of the published pre-training"
    def table(*rows): return '\n'.join(separator.join(f'"{o}"' if separator in o else o for o in r) for r in rows)+'\n'
    lines = [('1','left kidney',f'bean{separator} paired'), ('1','left ren','nan'), ('2','',''), ('3','nan','x')]
    (tmp_path/'own.csv').write_text('\ufeff'+table(('Code','NAME','Definition'), *lines), encoding='utf-8')
    with gzip.open(tmp_path/'bio.csv.gz', 'wt', encoding='utf-8') as file:
        header = 'Class ID','Preferred Label','Synonyms','Definitions'
        file.write(table(header, ('http://r/RID58','liver','hepar|jecur','A gland.|Makes bile.')))
    header = 'source name','target name','relation'
    (tmp_path/'graph.csv').write_text(table(header, ('liver','abdomen','part_of'), ('liver','bile','makes')))
    notes = []
    own,bio,graph = (list(csv_rows(tmp_path/o, KnowledgeCfg(), notes)) for o in ('own.csv','bio.csv.gz','graph.csv'))
    assert len(own)==1 and own[0].definitions==(f'bean{separator} paired',) and own[0].synonyms==('left ren',) and own[0].side=='left'
    assert (bio[0].synonyms, bio[0].definitions)==(('hepar','jecur'), ('A gland.','Makes bile.'))
    assert graph[0].relations==(('part of','abdomen'), ('makes','bile')) and '2 lines without a name are left out' in notes
    assert all(not trouble(c.row) for c in (*own, *bio, *graph))


def test_the_command_puts_sources_together_and_checks(tmp_path):
    (tmp_path/'a.csv').write_text('name,definition\nliver,makes bile\n')
    code,out,err = run('structures', tmp_path/'a.csv', '-o', tmp_path/'k.jsonl')
    assert code==0 and 'unknown' in out and len(read_knowledge(tmp_path/'k.jsonl'))>1900 and not err
    assert run(tmp_path/'k.jsonl', '--check')[0]==0
    assert run(tmp_path/'k.jsonl', tmp_path/'a.csv', '-o', tmp_path/'both.jsonl', '--licence', 'CC0')[0]==0
    with open(tmp_path/'k.jsonl', 'a') as file: file.write('{"id": "x", "names": "liver", "source": "s", "licence": "l"}\n')
    code,out,err = run(tmp_path/'k.jsonl', '--check')
    assert code==2 and '["liver"]' in out and out.count('\n')==1 and not err
    for argv in (('nothing.csv',), (tmp_path,), (tmp_path/'a.csv', '--kind', 'x')):
        code,_,err = run(*argv, '-o', tmp_path/'new.jsonl')
        assert code==2 and err.count('\n')==1 and not (tmp_path/'new.jsonl').exists(), err


def test_lines_of_one_thing_keep_every_licence_and_modalities_are_those_of_scans(tmp_path):
    path = tmp_path/'own.csv'
    lines = ['name;synonyms;definition;licence;modality',
             'Leber;;"Die Leber\nist groß";CC0;CT|XR','leber;Hepar|Hepar;;CC BY;MR','"|";x;;;','Milz;;;nan;PT']
    path.write_text('\ufeff'+'\n'.join(lines), encoding='utf-8')
    notes = []
    liver,spleen = csv_rows(path, KnowledgeCfg(), notes)
    assert liver.licence=='CC0; CC BY' and liver.modality==('ct','mri') and liver.definitions==('Die Leber ist groß',)
    assert liver.synonyms==('leber','Hepar') and (spleen.licence, spleen.modality)==('unknown', ('pet',))
    assert '1 lines without a name' in notes[0] and 'XR' in notes[1] and not [c for c in (liver, spleen) if trouble(c.row)]


ROW = dict(id='a', names=['x'], source='s', licence='l')
HALF = '\ud800'

@pytest.mark.parametrize('line', (
    *(json.dumps(ROW|o) for o in (dict(modality=[['ct']]), dict(modality=[{}]), dict(region=0), dict(names=[HALF]), dict(id=HALF),
                                  dict(relations=[['in', HALF]]), dict(side=[]))),
    '['*100_000, '{"id": '+'9'*5000+'}'))
def test_a_line_of_wrong_types_is_one_sentence(tmp_path, line):
    path = tmp_path/'hand.jsonl'
    path.write_text(line+'\n')
    code,_,err = run(path, '-o', tmp_path/'out.jsonl')
    assert code==2 and 'line 1' in err and len(err.splitlines())==1 and not (tmp_path/'out.jsonl').exists()


def test_a_source_that_gives_nothing_leaves_the_file_that_was_there(tmp_path):
    old = tmp_path/'out.jsonl'
    old.write_text(json.dumps(ROW)+'\n')
    packed = gzip.compress(b'name,definition\n'+b'liver,brown\n'*99)
    files = {'head.csv': b'name,definition\n', 'none.obo': b'format-version: 1.2\n', 'cut.csv.gz': packed[:-9], 'odd.csv.gz': b'name',
             'gone.obo': b'format-version: 1.2\n\n[Term]\nid: X:1\nname: a\nis_obsolete: true\n', 'p.json.gz': gzip.compress(b'{}')}
    for name,content in files.items():
        (tmp_path/name).write_bytes(content)
        code,_,err = run(tmp_path/name, '-o', old)
        assert code==2 and name in err and len(err.splitlines())==1, (name, err)
        assert old.read_text()==json.dumps(ROW)+'\n'
    for kind in ('csv','knowledge','prompts','ontology'): assert 'is a folder' in run(tmp_path, '--kind', kind, '-o', old)[2]
    for kind in ('csv','ontology','umls'): assert 'no source' in run(tmp_path/'nowhere', '--kind', kind, '-o', old)[2]
    with gzip.open(tmp_path/'k.jsonl.gz', 'wt') as file: file.write(json.dumps(ROW)+'\n')
    assert run(tmp_path/'k.jsonl.gz', '-o', old)[0]==0 and read_knowledge(tmp_path/'k.jsonl.gz')==read_knowledge(old)


def test_an_extract_without_declarations_and_with_cycles_is_read(tmp_path):
    "Cut out by hand: no Typedef, parents in a circle, an import that nobody has"
    head = 'format-version: 1.2\nontology: mine\nimport: http://nowhere.invalid/x.obo\n'
    head += 'property_value: dcterms-license "CC  BY\t4.0" xsd:string\n'
    first = '\n[Term]\nid: X:1\nname: Bauchspeicheldrüse\nsynonym: "head" NARROW []\nsynonym: "pancreas" EXACT []\n'
    first += 'is_a: X:2\nrelationship: part_of X:2\n'
    second = '\n[Term]\nid: X:2\nname: gland\nis_a: X:1\nrelationship: has_part NOT:THERE\n'
    (tmp_path/'cut.obo').write_text(head+first+second, encoding='utf-8')
    one,two = ontology_rows(tmp_path/'cut.obo', KnowledgeCfg(), [])
    assert (one.names, one.synonyms, one.licence)==(('Bauchspeicheldrüse',), ('pancreas','head'), 'CC BY 4.0')
    assert one.relations==(('is a','X:2'), ('part of','X:2')) and two.relations==(('is a','X:1'),)
    (tmp_path/'cut.obo').write_text(head+first, encoding='utf-8')
    code,_,err = run(tmp_path/'cut.obo', '-o', tmp_path/'out.jsonl')
    assert code==2 and "X:2" in err and 'parent' in err and not (tmp_path/'out.jsonl').exists()
