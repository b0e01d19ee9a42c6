// The list of classes: colour, visibility, opacity, what was found; a click on a name chooses the class that the tools mark, and goes there.

function found(c) { // volume and presence, or what else came of it
  if (c.outcome && c.outcome !== 'found') return [make('td', 'medals-figure medals-lost', { colspan: 2, title: c.note }, c.outcome)];
  const edited = c.edited ? ' ✎' : '';
  return [make('td', 'medals-figure', { title: c.edited ? 'changed by hand' : '' }, c.ml == null ? '–' : c.ml.toFixed(1) + edited),
          ...(c.fixed ? [] : [make('td', 'medals-figure', { title: c.note }, c.presence == null ? '–' : c.presence.toFixed(2))])];
}

function against(c) { // how far another reader's mask is the same
  if (!c.against) return [];
  const { dsc, more, less } = c.against;
  return [make('div', 'medals-differs', {}, `DSC ${dsc.toFixed(3)} · ${more.toFixed(1)} ml more, ${less.toFixed(1)} ml less`)];
}

function row(model, c, active) {
  const look = changes => model.send({ type: 'look', sentence: c.name, ...changes });
  const box = make('input', '', { type: 'checkbox', title: 'Show this mask', 'aria-label': `show ${c.name}`, onchange: e => look({ visible: e.target.checked }) });
  box.checked = c.visible;
  const opacity = make('input', 'medals-opacity', { type: 'range', min: 0, max: 1, step: .05, title: 'Opacity', 'aria-label': `opacity of ${c.name}`,
    oninput: e => look({ opacity: e.target.valueAsNumber }) });
  opacity.value = c.opacity;
  const colour = make('input', 'medals-colour', { type: 'color', title: 'Colour', 'aria-label': `colour of ${c.name}`, onchange: e => look({ colour: e.target.value }) });
  colour.value = c.colour;
  const name = make('button', 'medals-name', { type: 'button', title: c.fixed ? 'Go to its middle' : 'Mark this class, and go to its middle', 'aria-pressed': String(active),
    onclick: () => model.send({ type: 'pick', sentence: c.name, centre: true }) }, c.name);
  const cell = (...x) => make('td', '', {}, ...x), { doubt } = c;
  const offers = doubt && doubt.line ? offersOf(model, doubt.offers.map(o => ({ ...o, instead_of: [c.name] }))) : [];
  const said = offers.length ? [make('div', 'medals-doubt', {}, doubt.line, ' ', ...offers)] : [];
  return make('tr', active ? 'medals-active' : '', { 'data-class': c.name }, cell(box), cell(colour), cell(name, ...said, ...against(c)), cell(opacity), ...found(c),
    ...(c.fixed ? [] : [make('td', 'medals-figure', {}, String(c.marks)),
    cell(make('button', 'medals-remove', { type: 'button', title: 'Remove this sentence', 'aria-label': `remove ${c.name}`,
      onclick: () => model.send({ type: 'remove', sentence: c.name }) }, '×'))]));
}

function render({ model, el }) {
  const body = make('tbody'), none = make('p', 'medals-none', {}, 'No sentence yet. Type one above.');
  const head = make('tr');
  const table = make('table', 'medals-classes', {}, make('thead', '', {}, head), body);
  el.append(make('div', 'medals-list', { onkeydown: e => e.stopPropagation() }, table, none));
  const refresh = () => {
    const rows = model.get('classes');
    if (el.contains(document.activeElement) && document.activeElement.classList.contains('medals-opacity') && body.children.length === rows.length) return;
    table.classList.toggle('medals-fixed', Boolean(rows.length && rows[0].fixed));
    const titles = rows.length && rows[0].fixed ? ['', '', 'mask', 'opacity', 'ml'] : ['', '', 'sentence', 'opacity', 'ml', 'presence', 'marks', ''];
    head.replaceChildren(...titles.map(t => make('th', '', { scope: 'col' }, t)));
    body.replaceChildren(...rows.map(c => row(model, c, c.name === model.get('active'))));
    none.hidden = rows.length > 0;
    table.hidden = !rows.length;
  };
  model.on('change:classes change:active', refresh);
  refresh();
  return () => model.off('change:classes change:active', refresh);
}

export default { render };
