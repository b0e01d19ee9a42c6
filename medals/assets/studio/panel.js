// What stands around the slices: the box for sentences, the tools, the grey window, the help.

const TOOLS = [ // name, text, what it does; the number is its key
  ['move', 'Move', 'Move the crosshair'], ['point', 'Point', 'Click into an object'], ['box', 'Box', 'Drag a box around an object'],
  ['scribble', 'Scribble', 'Draw a stroke that the network is shown'], ['lasso', 'Lasso', 'Draw an outline that the network is shown'],
  ['eraser', 'Eraser', 'Take back marks that it touches'], ['brush', 'Brush', 'Paint on the mask itself, with a ball'],
  ['rubber', 'Rubber', 'Rub out the mask itself, with a ball'], ['ruler', 'Ruler', 'Measure a distance'],
  ['angle', 'Angle', 'Measure an angle: drag one side to the corner, then click the end of the other']];

const LOOKING = ['move', 'ruler', 'angle']; // that change nothing

const STEPS = [['fill holes', 'Fill holes'], ['keep largest', 'Keep the largest piece'], ['grow', 'Grow by mm'], ['shrink', 'Shrink by mm'],
  ['smooth', 'Smooth by mm']];

const KEYS = [
  ['Wheel, Page keys', 'slices'], ['Arrows', 'crosshair'], ['Ctrl+wheel', 'zoom'], ['Shift+drag', 'move the picture'],
  ['Double click', 'the whole slice'], ['Right drag', 'grey window'], ['R', 'grey window as at first'], ['1 to 9, 0', 'tools, in the order of the buttons'],
  ['X', 'positive or negative marks'], ['[ and ]', 'smaller or larger pen'], ['Enter', 'a point at the crosshair'], ['H, held', 'the scan alone'], ['B, held', 'as it was before the last step'],
  ['M', 'marks on or off'], ['O', 'outlines only'], ['F', 'this plane large, or as before'], ['Ctrl+Z, Ctrl+Y', 'undo, redo'], ['?', 'this list']];

const button = (text, title, f, className = 'medals-button') => make('button', className, { type: 'button', title, onclick: f }, text);
const labelled = (text, ...e) => make('label', 'medals-number', {}, text, ...e);

// ---- the sentence box

class Words {
  constructor(model) {
    this.model = model;
    this.input = make('input', 'medals-sentence', { type: 'text', placeholder: 'What to segment, such as: left kidney', role: 'combobox',
      'aria-label': 'Sentence', 'aria-expanded': 'false', autocomplete: 'off', oninput: () => this.ask(), onkeydown: e => this.key(e),
      onblur: () => setTimeout(() => this.close(), 150) });
    this.list = make('ul', 'medals-options', { role: 'listbox' });
    this.line = make('span', '', { 'aria-live': 'polite' });
    this.offers = make('span', 'medals-offers');
    this.el = make('div', 'medals-words', {}, make('div', 'medals-row', {}, make('div', 'medals-combo', {}, this.input, this.list),
      button('Add', 'Add this sentence to the list', () => this.add())), make('div', 'medals-understood', {}, this.line, this.offers));
    this.at = -1;
  }

  ask() { this.model.send({ type: 'typing', text: this.input.value }) }

  show() {
    const said = this.model.get('understood'), known = said.known || [];
    this.line.textContent = said.line || '';
    this.offers.replaceChildren(...offersOf(this.model, said.offers, () => { this.input.value = ''; this.close() }));
    this.at = -1;
    const open = said.text === this.input.value && said.options.length && document.activeElement === this.input;
    this.list.replaceChildren(...(open ? said.options : []).map((o, i) => make('li', known[i] === false ? 'medals-unknown' : '', { role: 'option', 'data-name': o,
      onpointerdown: e => { e.preventDefault(); this.input.value = o; this.add() } }, o, known[i] === false ? ' · not known to these weights' : '')));
    this.input.setAttribute('aria-expanded', String(Boolean(open)));
  }

  close() {
    this.list.replaceChildren();
    this.input.setAttribute('aria-expanded', 'false');
  }

  key(e) {
    const options = [...this.list.children];
    if ((e.key === 'ArrowDown' || e.key === 'ArrowUp') && options.length) {
      e.preventDefault();
      this.at = clamp(this.at + (e.key === 'ArrowDown' ? 1 : -1), -1, options.length - 1);
      options.forEach((o, i) => o.setAttribute('aria-selected', String(i === this.at)));
    } else if (e.key === 'Enter') {
      if (this.at >= 0 && options[this.at]) this.input.value = options[this.at].getAttribute('data-name');
      this.add();
    } else if (e.key === 'Escape') this.close();
  }

  add() {
    if (this.input.value.trim()) this.model.send({ type: 'add', sentence: this.input.value.trim() });
    this.input.value = '';
    this.close();
  }
}

// ---- tools and their numbers

class Tools {
  constructor(ui) {
    this.ui = ui;
    this.buttons = TOOLS.map(([name, text, title], i) => {
      const b = button(text, `${title} (${(i + 1) % 10})`, () => ui.setTool({ name }), 'medals-tool');
      b.setAttribute('data-tool', name);
      b.hidden = ui.only && !LOOKING.includes(name);
      return b;
    });
    this.sign = button('', 'Positive: this belongs to it. Negative: this does not (X)', () => ui.setTool({ positive: !ui.tool.positive }), 'medals-tool medals-sign');
    this.radius = this.number('radius', 'Radius of points, strokes and the brush, mm', .5, 50, .5);
    this.depth = this.number('depth', 'Slices that a box reaches to either side', 0, 200, 1);
    this.limits = [0, 1].map(i => make('input', '', { type: 'number', step: 'any', 'aria-label': i ? 'brightest value' : 'darkest value',
      title: 'The brush paints only values between these two; empty: all', onchange: () => this.limit() }));
    this.step = make('select', '', { 'aria-label': 'Change the mask', title: 'Change the whole mask of the chosen class', onchange: () => this.clean() },
      make('option', '', { value: '' }, 'Change mask …'), ...STEPS.map(([value, text]) => make('option', '', { value }, text)));
    this.mm = make('input', '', { type: 'number', min: .5, max: 50, step: .5, value: 1, 'aria-label': 'mm', title: 'mm to grow, shrink or smooth by' });
    this.deep = labelled('depth', this.depth);
    this.between = labelled('values', ...this.limits);
    this.whose = make('span', 'medals-whose', { title: 'What is drawn belongs to this class; click another name in the list to change it' });
    const pens = ui.only ? [] : [this.whose, this.sign, labelled('radius mm', this.radius), this.deep, this.between, make('span', 'medals-row', {}, this.step, this.mm)];
    this.el = make('div', 'medals-bar', { role: 'toolbar', 'aria-label': 'Tools' }, ...this.buttons.filter(b => !b.hidden), ...pens);
  }

  number(key, title, min, max, step) {
    return make('input', '', { type: 'number', title, 'aria-label': title, min, max, step,
      onchange: e => this.ui.setTool({ [key]: clamp(e.target.valueAsNumber || min, min, max) }) });
  }

  limit() { // one of two numbers is enough: the other end is open
    const [lo, hi] = this.limits.map(e => e.valueAsNumber), range = this.ui.model.get('scene').range;
    const none = Number.isNaN(lo) && Number.isNaN(hi);
    this.ui.setTool({ limits: none ? null : [Number.isNaN(lo) ? range[0] : lo, Number.isNaN(hi) ? range[1] : hi] });
  }

  clean() {
    const step = this.step.value;
    this.step.value = '';
    if (step) this.ui.model.send({ type: 'clean', step, mm: this.mm.valueAsNumber || 1 });
  }

  refresh(tool) {
    this.buttons.forEach(b => b.setAttribute('aria-pressed', String(b.getAttribute('data-tool') === tool.name)));
    this.sign.textContent = tool.positive ? '+ positive' : '− negative';
    this.sign.setAttribute('aria-pressed', String(!tool.positive));
    this.sign.hidden = !MARKS.includes(tool.name);
    this.deep.hidden = tool.name !== 'box';
    this.between.hidden = tool.name !== 'brush';
    const name = this.ui.model.get('active'), look = this.ui.looks()[name], draws = !LOOKING.includes(tool.name);
    this.whose.hidden = !draws;
    this.whose.replaceChildren(...(look ? ['for ', make('i', '', { style: `background: ${look.colour}` }), name] : ['for no class yet: add a sentence']));
    this.radius.value = tool.radius;
    this.depth.value = tool.depth;
  }
}

// ---- the grey window: by name, by two numbers

class Contrast {
  constructor(ui) {
    this.ui = ui;
    this.names = make('select', 'medals-presets', { 'aria-label': 'Grey window', title: 'Grey windows by name', onchange: e => this.choose(e.target.value) });
    this.names_of();
    this.level = this.number('level', 'The value that is a middle grey');
    this.width = this.number('width', 'How many values there are from black to white');
    this.reset = button('Reset', 'The grey window as at first (R)', () => ui.resetWindow());
    this.el = make('span', 'medals-row medals-contrast', {}, this.names, labelled('level', this.level), labelled('width', this.width), this.reset);
  }

  names_of() { // the windows that fit this scan
    const windows = this.ui.model.get('scene').windows || [];
    this.names.replaceChildren(make('option', '', { value: '' }, 'window …'), ...windows.map(w => make('option', '', { value: w.name }, w.name)));
  }

  number(name, title) { return make('input', '', { type: 'number', step: 'any', title, 'aria-label': `window ${name}`, onchange: () => this.set() }) }

  choose(name) {
    const w = this.ui.model.get('scene').windows.find(o => o.name === name);
    if (w) this.ui.look([w.lo, w.hi], true);
  }

  set() {
    const level = this.level.valueAsNumber, width = Math.max(this.width.valueAsNumber, 1e-6);
    if (Number.isFinite(level) && Number.isFinite(width)) this.ui.look([level - width / 2, level + width / 2], true);
  }

  refresh([lo, hi]) {
    const short = x => Number(x.toPrecision(4));
    if (document.activeElement !== this.level) this.level.value = short((lo + hi) / 2);
    if (document.activeElement !== this.width) this.width.value = short(hi - lo);
    const named = (this.ui.model.get('scene').windows || []).find(w => Math.abs(w.lo - lo) + Math.abs(w.hi - hi) < 1e-6 * (1 + Math.abs(hi)));
    this.names.value = named ? named.name : '';
  }
}

// ---- help

const DRAWING = ['X', '[ and ]', 'Enter', 'B, held', 'M', 'Ctrl+Z, Ctrl+Y'];

function helpOf(close, only) {
  const keys = KEYS.filter(([key]) => !only || !DRAWING.includes(key)).map(([key, what]) => only && key === '1 to 9, 0' ? ['1, 9, 0', what] : [key, what]);
  const rows = keys.map(([key, what]) => make('tr', '', {}, make('th', '', { scope: 'row' }, key), make('td', '', {}, what)));
  return make('div', 'medals-help', { role: 'dialog', 'aria-label': 'Keys' }, make('table', '', {}, make('tbody', '', {}, ...rows)),
    make('p', '', {}, (only ? '' : 'Marks (point, box, scribble, lasso) are shown to the network. Brush and rubber change the mask itself. ') + 'Keys work when a slice has the focus.'),
    button('Close', 'Close', close));
}
