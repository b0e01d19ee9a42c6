// Three linked slices with a sentence box and tools. Python (medals.widgets) cuts the slices and keeps sentences, marks and masks;
// here they are shown and drawn on. A plain module for anywidget: no build step, nothing from the network.
// Positions are columns and rows of a slice in voxels; whole numbers are the middle of a voxel.

const PLANES = [   // axis that is cut, axes of columns and rows, letters: left, right, top, bottom
  { name: 'sagittal', axis: 0, col: 1, row: 2, letters: 'APSI' },
  { name: 'coronal', axis: 1, col: 0, row: 2, letters: 'RLSI' },
  { name: 'axial', axis: 2, col: 0, row: 1, letters: 'RLAP' }];

const TOOLS = [
  ['move', 'Move', 'Move the crosshair (1)'], ['point', 'Point', 'Click into an object (2)'], ['box', 'Box', 'Drag a box around an object (3)'],
  ['scribble', 'Scribble', 'Draw a stroke (4)'], ['lasso', 'Lasso', 'Draw an outline (5)'], ['eraser', 'Eraser', 'Take back marks that it touches (6)']];

const HELP = 'Wheel: slices. Right drag: grey window. Ctrl+wheel: zoom. Shift+drag: pan. Double click: whole slice. ' +
  'Arrows: crosshair. Page keys: slices. 1-6: tools. X: positive or negative. Enter: a point at the crosshair. Ctrl+Z, Ctrl+Y: undo, redo.';

const clamp = (x, lo, hi) => Math.min(Math.max(x, lo), hi);
const bytes = b => new Uint8Array(b.buffer || b, b.byteOffset || 0, b.byteLength);
const rgb = c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16));

// ---- pictures: the same arithmetic as the `canvas` page

function edges(m, w, h) {
  const e = new Uint8Array(m.length);
  for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i++)
    e[i] = m[i] && !((y === 0 || m[i - w]) && (y === h - 1 || m[i + w]) && (x === 0 || m[i - 1]) && (x === w - 1 || m[i + 1]));
  return e;
}

function unpack(bits, n) {
  const m = new Uint8Array(n);
  for (let i = 0; i < n; i++) m[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  return m;
}

function blend(out, layer, look, w, h) {
  const { mask, kind } = layer, e = layer.edge || (layer.edge = edges(mask, w, h)), f = Math.fround;
  const colour = rgb(look.colour), alpha = f({ positive: .6, negative: .3 }[kind] ?? look.opacity);
  const edgeAlpha = kind === 'mask' ? Math.min(1, f(alpha + .5)) : 1, edgeColour = kind === 'positive' ? [255, 255, 255] : colour;
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const chequer = (((i % w >> 1) + (Math.floor(i / w) >> 1)) % 2) * 255, a = e[i] ? edgeAlpha : alpha;
    for (let k = 0; k < 3; k++) {
      const c = e[i] ? edgeColour[k] : kind === 'negative' ? chequer : colour[k];
      out[3 * i + k] = out[3 * i + k] * (1 - a) + c * a;
    }
  }
}

function compose(cut, looks) {
  const { grey, w, h } = cut, out = new Float32Array(3 * w * h), image = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = grey[i];
  for (const layer of cut.layers) {
    const look = looks[layer.name];
    if (look && look.visible) blend(out, layer, look, w, h);
  }
  for (let i = 0; i < w * h; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = Math.round(out[3 * i + k]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

// ---- one plane

class Pane {
  constructor(ui, plane) {
    Object.assign(this, { ui, plane, model: ui.model, cut: null, busy: false, again: false, hand: null });
    this.canvas = make('canvas', 'medals-canvas', { tabindex: 0, role: 'img', title: HELP });
    this.picture = make('canvas');
    this.slider = make('input', 'medals-slider', { type: 'range', min: 0, step: 1, 'aria-label': `${plane.name} slice`,
      oninput: () => ui.moveTo(plane.axis, this.size(plane.axis) - 1 - this.slider.valueAsNumber) });
    this.label = make('span', 'medals-label');
    this.el = make('figure', 'medals-pane', {}, this.canvas, make('figcaption', '', {}, this.slider, this.label));
    this.whole();
    for (const [event, f] of Object.entries({ pointerdown: this.down, pointermove: this.drag, pointerup: this.up, pointercancel: this.up,
      wheel: this.wheel, dblclick: this.whole, keydown: this.key })) this.canvas.addEventListener(event, f.bind(this), { passive: false });
    this.canvas.addEventListener('contextmenu', e => { e.preventDefault(); e.stopPropagation() });
  }

  size(axis) { return this.model.get('scene').shape[axis] }
  spacing(axis) { return this.model.get('scene').spacing[axis] }
  get cols() { return this.size(this.plane.col) }
  get rows() { return this.size(this.plane.row) }
  get index() { return this.model.get('cursor')[this.plane.axis] }

  whole() {
    this.view = { c: (this.cols - 1) / 2, r: (this.rows - 1) / 2, zoom: 1 };
    this.want();
  }

  fit() { // screen pixels per voxel, columns and rows
    const dx = this.spacing(this.plane.col), dy = this.spacing(this.plane.row);
    const s = this.view.zoom * Math.min(this.canvas.clientWidth / (this.cols * dx), this.canvas.clientHeight / (this.rows * dy));
    return [s * dx, s * dy];
  }

  toScreen(c, r) {
    const [sx, sy] = this.fit();
    return [this.canvas.clientWidth / 2 + (c - this.view.c) * sx, this.canvas.clientHeight / 2 + (r - this.view.r) * sy];
  }

  toVoxel(e) {
    const box = this.canvas.getBoundingClientRect(), [sx, sy] = this.fit();
    return [this.view.c + (e.clientX - box.left - box.width / 2) / sx, this.view.r + (e.clientY - box.top - box.height / 2) / sy];
  }

  rect() { // the part of the slice that is visible, voxels
    const [sx, sy] = this.fit(), w = this.canvas.clientWidth / 2 / sx, h = this.canvas.clientHeight / 2 / sy, { c, r } = this.view;
    return [clamp(Math.floor(c - w + .5), 0, this.cols), clamp(Math.floor(r - h + .5), 0, this.rows),
            clamp(Math.ceil(c + w + .5), 0, this.cols), clamp(Math.ceil(r + h + .5), 0, this.rows)];
  }

  want() { // ask for the slice; while one is on its way, remember to ask again
    if (!this.canvas.clientWidth) return;
    this.draw();
    if (this.busy && performance.now() - this.asked < 4000) { this.again = true; return }
    Object.assign(this, { busy: true, again: false, asked: performance.now() });
    const pixels = Math.ceil(Math.max(this.canvas.clientWidth, this.canvas.clientHeight) * (window.devicePixelRatio || 1));
    this.model.send({ type: 'cut', view: this.ui.id, axis: this.plane.axis, index: this.index, rect: this.rect(), pixels: Math.max(pixels, 512) });
  }

  got(m, buffers) {
    const n = m.w * m.h;
    this.cut = { ...m, grey: bytes(buffers[0]), layers: m.layers.map(([kind, name], i) => ({ kind, name, mask: unpack(bytes(buffers[i + 1]), n) })) };
    this.busy = false;
    this.paint();
    if (this.again) this.want();
  }

  paint() { // masks and marks into the picture; needs no Python
    if (!this.cut) return;
    Object.assign(this.picture, { width: this.cut.w, height: this.cut.h });
    this.picture.getContext('2d').putImageData(compose(this.cut, this.ui.looks()), 0, 0);
    this.draw();
  }

  draw() { // the picture, and what lies over it
    const dpr = window.devicePixelRatio || 1, w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(w * dpr) || this.canvas.height !== Math.round(h * dpr))
      Object.assign(this.canvas, { width: Math.round(w * dpr), height: Math.round(h * dpr) });
    const g = this.canvas.getContext('2d');
    g.setTransform(dpr, 0, 0, dpr, 0, 0);
    g.fillStyle = '#000';
    g.fillRect(0, 0, w, h);
    if (this.cut) {
      const { rect: [c, r], step, w: pw, h: ph } = this.cut, [x, y] = this.toScreen(c - .5, r - .5), [sx, sy] = this.fit();
      g.imageSmoothingEnabled = false;
      g.drawImage(this.picture, x, y, pw * step * sx, ph * step * sy);
    }
    this.drawCross(g, w, h);
    if (this.hand) this.drawHand(g);
    this.drawLetters(g, w, h);
    this.caption();
  }

  drawCross(g, w, h) {
    const at = this.model.get('cursor'), [x, y] = this.toScreen(at[this.plane.col], at[this.plane.row]);
    g.lineWidth = 1;
    g.strokeStyle = 'rgba(255,255,255,.55)';
    g.beginPath();
    for (const [a, b, c, d] of [[0, y, x - 8, y], [x + 8, y, w, y], [x, 0, x, y - 8], [x, y + 8, x, h]]) { g.moveTo(a, b); g.lineTo(c, d) }
    g.stroke();
  }

  drawHand(g) { // what is being drawn now
    const { tool, path } = this.hand, look = this.ui.looks()[this.model.get('active')];
    const p = path.map(([c, r]) => this.toScreen(c, r)), brush = tool === 'scribble' || tool === 'eraser';
    g.strokeStyle = g.fillStyle = tool === 'eraser' ? '#fff' : look ? look.colour : '#fff';
    g.lineCap = g.lineJoin = 'round';
    g.globalAlpha = brush ? .6 : 1;
    g.setLineDash(this.model.get('tool').positive || brush ? [] : [5, 4]);
    g.lineWidth = brush ? Math.max(2, 2 * this.model.get('tool').radius / this.spacing(this.plane.col) * this.fit()[0]) : 2;
    g.beginPath();
    if (tool === 'box') { const [a, b] = [p[0], p[p.length - 1]]; g.rect(a[0], a[1], b[0] - a[0], b[1] - a[1]) }
    else { p.forEach(([x, y], i) => i ? g.lineTo(x, y) : g.moveTo(x, y)); if (p.length === 1) g.lineTo(p[0][0] + .1, p[0][1]) }
    if (tool === 'lasso') g.closePath();
    g.stroke();
    g.setLineDash([]);
    g.globalAlpha = 1;
  }

  drawLetters(g, w, h) {
    const [left, right, top, bottom] = this.plane.letters, [sx] = this.fit(), mm = this.spacing(this.plane.col) / sx;
    g.font = 'bold 13px sans-serif';
    const write = (t, x, y, align = 'center') => {
      Object.assign(g, { textAlign: align, textBaseline: 'middle', lineWidth: 3, strokeStyle: '#000', fillStyle: '#fff' });
      g.strokeText(t, x, y);
      g.fillText(t, x, y);
    };
    write(left, 10, h / 2); write(right, w - 10, h / 2); write(top, w / 2, 11); write(bottom, w / 2, h - 11);
    const bar = [1, 2, 5, 10, 20, 50, 100, 200].reduce((a, b) => Math.abs(b - w * mm / 4) < Math.abs(a - w * mm / 4) ? b : a);
    g.fillStyle = '#fff';
    g.fillRect(12, h - 14, bar / mm, 3);
    write(`${bar} mm`, 12, h - 24, 'left');
  }

  caption() {
    const n = this.size(this.plane.axis), step = this.cut ? this.cut.step : 1;
    this.slider.max = n - 1;
    this.slider.value = n - 1 - this.index;
    this.label.textContent = `${this.plane.name} ${n - this.index}/${n}` + (step > 1 ? ` · every ${step} voxels shown as one` : '');
    this.canvas.setAttribute('aria-label', `${this.plane.name} slice ${n - this.index} of ${n}`);
  }

  // ---- the hand

  down(e) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(e.pointerId);
    e.preventDefault();
    const tool = e.button === 2 ? 'window' : e.button === 1 || e.shiftKey ? 'pan' : e.altKey ? 'move' : this.model.get('tool').name;
    this.hand = { tool, path: [this.toVoxel(e)], x: e.clientX, y: e.clientY, window: this.model.get('window'), view: { ...this.view } };
    if (tool === 'move') this.cross(e);
    this.draw();
  }

  drag(e) {
    if (!this.hand) return;
    const { tool, x, y, window: [lo, hi], view } = this.hand, dx = e.clientX - x, dy = e.clientY - y;
    if (tool === 'move') this.cross(e);
    else if (tool === 'pan') {
      const [sx, sy] = this.fit();
      Object.assign(this.view, { c: view.c - dx / sx, r: view.r - dy / sy });
      this.want();
    } else if (tool === 'window') {
      const width = Math.max((hi - lo) * Math.exp(dx / 200), 1e-6), centre = (lo + hi) / 2 + dy / 200 * (hi - lo);
      this.ui.put({ window: [centre - width / 2, centre + width / 2] });
    } else {
      this.hand.path.push(this.toVoxel(e));
      this.draw();
    }
  }

  up(e) {
    const hand = this.hand;
    this.hand = null;
    if (hand && !['move', 'pan', 'window'].includes(hand.tool) && e.type === 'pointerup')
      this.model.send({ type: 'mark', tool: hand.tool, axis: this.plane.axis, index: this.index, points: hand.path });
    this.draw();
  }

  cross(e) {
    const [c, r] = this.toVoxel(e), at = [...this.model.get('cursor')];
    at[this.plane.col] = clamp(Math.round(c), 0, this.cols - 1);
    at[this.plane.row] = clamp(Math.round(r), 0, this.rows - 1);
    this.ui.put({ cursor: at });
  }

  wheel(e) {
    e.preventDefault();
    if (!e.ctrlKey) return this.ui.moveTo(this.plane.axis, this.index + Math.sign(e.deltaY));
    const [c, r] = this.toVoxel(e), zoom = clamp(this.view.zoom * Math.exp(-e.deltaY / 300), 1, 40), k = this.view.zoom / zoom;
    this.view = { c: c + (this.view.c - c) * k, r: r + (this.view.r - r) * k, zoom };
    this.want();
  }

  key(e) {
    const { axis, col, row } = this.plane, at = this.model.get('cursor'), ui = this.ui;
    const tool = TOOLS[Number(e.key) - 1], letter = e.key.toLowerCase(), ctrl = e.ctrlKey || e.metaKey;
    if (ctrl && letter === 'z') this.model.send({ type: e.shiftKey ? 'redo' : 'undo' });
    else if (ctrl && letter === 'y') this.model.send({ type: 'redo' });
    else if (ctrl || e.altKey) return;
    else if (e.key === 'ArrowLeft') ui.moveTo(col, at[col] - 1);
    else if (e.key === 'ArrowRight') ui.moveTo(col, at[col] + 1);
    else if (e.key === 'ArrowUp') ui.moveTo(row, at[row] - 1);
    else if (e.key === 'ArrowDown') ui.moveTo(row, at[row] + 1);
    else if (e.key === 'PageUp') ui.moveTo(axis, at[axis] - 1);
    else if (e.key === 'PageDown') ui.moveTo(axis, at[axis] + 1);
    else if (tool) ui.setTool({ name: tool[0] });
    else if (letter === 'x') ui.setTool({ positive: !this.model.get('tool').positive });
    else if (e.key === 'Enter') this.model.send({ type: 'mark', tool: 'point', axis, index: this.index, points: [[at[col], at[row]]] });
    else return;
    e.preventDefault();
  }
}

// ---- the sentence box

class Words {
  constructor(model) {
    this.model = model;
    this.input = make('input', 'medals-sentence', { type: 'text', placeholder: 'What to segment, such as: left kidney', role: 'combobox',
      'aria-label': 'Sentence', 'aria-expanded': 'false', autocomplete: 'off', oninput: () => this.ask(), onkeydown: e => this.key(e),
      onblur: () => setTimeout(() => this.close(), 150) });
    this.list = make('ul', 'medals-options', { role: 'listbox' });
    this.line = make('div', 'medals-understood', { 'aria-live': 'polite' });
    this.el = make('div', 'medals-words', {}, make('div', 'medals-row', {}, make('div', 'medals-combo', {}, this.input, this.list),
      make('button', 'medals-button', { type: 'button', onclick: () => this.add() }, 'Add')), this.line);
    this.at = -1;
  }

  ask() { this.model.send({ type: 'typing', text: this.input.value }) }

  show() {
    const said = this.model.get('understood');
    this.line.textContent = said.line || '';
    this.at = -1;
    const open = said.text === this.input.value && said.options.length && document.activeElement === this.input;
    this.list.replaceChildren(...(open ? said.options : []).map(o => make('li', '', { role: 'option',
      onpointerdown: e => { e.preventDefault(); this.input.value = o; this.add() } }, o)));
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
      if (this.at >= 0 && options[this.at]) this.input.value = options[this.at].textContent;
      this.add();
    } else if (e.key === 'Escape') this.close();
  }

  add() {
    if (this.input.value.trim()) this.model.send({ type: 'add', sentence: this.input.value.trim() });
    this.input.value = '';
    this.close();
  }
}

// ---- all together

class Studio {
  constructor(model, el) {
    Object.assign(this, { model, id: Math.random().toString(36).slice(2), off: [] });
    const button = (text, title, f, className = 'medals-button') => make('button', className, { type: 'button', title, onclick: f }, text);
    this.words = new Words(model);
    this.tools = TOOLS.map(([name, text, title]) => {
      const b = button(text, title, () => this.setTool({ name }), 'medals-tool');
      b.setAttribute('data-tool', name);
      return b;
    });
    this.sign = button('', 'Positive: this belongs to it. Negative: this does not (X)', () => this.setTool({ positive: !model.get('tool').positive }), 'medals-tool medals-sign');
    this.radius = this.number('radius', 'Radius of points and strokes, mm', .5, 50, .5);
    this.depth = this.number('depth', 'Slices that a box reaches to either side', 0, 200, 1);
    this.undo = button('Undo', 'Undo (Ctrl+Z)', () => model.send({ type: 'undo' }));
    this.redo = button('Redo', 'Redo (Ctrl+Y)', () => model.send({ type: 'redo' }));
    this.run = button('Run', 'Segment; after a correction only what it touches', () => { this.words.add(); model.send({ type: 'run' }) }, 'medals-button medals-run');
    this.cancel = button('Cancel', 'Stop the run', () => model.send({ type: 'cancel' }));
    this.save = button('Save', 'Masks, table and marks to the folder beside', () => model.send({ type: 'save', out: this.out.value }));
    this.out = make('input', 'medals-out', { type: 'text', 'aria-label': 'Folder to save to', title: 'Folder to save to' });
    this.bar = make('progress', 'medals-progress', { max: 1, 'aria-label': 'Progress' });
    this.status = make('span', 'medals-status', { role: 'status' });
    this.panes = PLANES.map(p => new Pane(this, p));
    const label = (text, e) => make('label', 'medals-number', {}, text, e);
    el.append(make('div', 'medals-studio', { onkeydown: e => e.stopPropagation() }, this.words.el,
      make('div', 'medals-bar', { role: 'toolbar', 'aria-label': 'Tools' }, ...this.tools, this.sign, label('radius mm', this.radius), label('depth', this.depth),
        this.undo, this.redo),
      make('div', 'medals-panes', {}, ...this.panes.map(p => p.el)),
      make('div', 'medals-bar', {}, this.run, this.cancel, this.bar, this.status, make('span', 'medals-gap'), this.out, this.save)));
    this.listen();
    this.size = new ResizeObserver(() => this.panes.forEach(p => p.want()));
    this.panes.forEach(p => this.size.observe(p.canvas));
    this.refresh();
  }

  number(key, title, min, max, step) {
    return make('input', '', { type: 'number', title, min, max, step,
      onchange: e => this.setTool({ [key]: clamp(e.target.valueAsNumber || min, min, max) }) });
  }

  listen() {
    const { model } = this;
    const on = (event, f) => { model.on(event, f); this.off.push([event, f]) };
    on('change:cursor change:version change:window', () => this.panes.forEach(p => p.want()));
    on('change:classes', () => this.panes.forEach(p => p.paint()));
    on('change:understood', () => this.words.show());
    on('change:tool change:status change:history change:active change:out', () => this.refresh());
    on('change:height', () => this.refresh());
    on('msg:custom', (m, buffers) => {
      if (m.type === 'cut' && m.view === this.id) this.panes[m.axis].got(m, buffers);
    });
  }

  looks() { return Object.fromEntries(this.model.get('classes').map(c => [c.name, c])) }

  put(changes) {
    for (const [k, v] of Object.entries(changes)) this.model.set(k, v);
    this.model.save_changes();
  }

  setTool(changes) { this.put({ tool: { ...this.model.get('tool'), ...changes } }) }

  moveTo(axis, i) {
    const at = [...this.model.get('cursor')];
    at[axis] = clamp(i, 0, this.model.get('scene').shape[axis] - 1);
    this.put({ cursor: at });
  }

  refresh() {
    const { model } = this, tool = model.get('tool'), status = model.get('status'), history = model.get('history');
    this.tools.forEach(b => b.setAttribute('aria-pressed', String(b.getAttribute('data-tool') === tool.name)));
    this.sign.textContent = tool.positive ? '+ positive' : '− negative';
    this.sign.setAttribute('aria-pressed', String(!tool.positive));
    this.radius.value = tool.radius;
    this.depth.value = tool.depth;
    this.undo.disabled = !history.undo;
    this.redo.disabled = !history.redo;
    this.run.disabled = status.busy || !status.can_run;
    this.run.classList.toggle('medals-stale', Boolean(status.stale && !status.busy));
    this.cancel.hidden = this.bar.hidden = !status.busy;
    if (status.total) this.bar.value = status.done / status.total; else this.bar.removeAttribute('value');
    this.status.textContent = status.text;
    this.status.classList.toggle('medals-wrong', Boolean(status.wrong));
    if (document.activeElement !== this.out) this.out.value = model.get('out');
    this.save.disabled = status.busy;
    this.panes.forEach(p => { p.canvas.style.height = `${model.get('height')}px`; p.canvas.style.cursor = tool.name === 'move' ? 'crosshair' : 'cell' });
  }

  close() {
    this.off.forEach(([event, f]) => this.model.off(event, f));
    this.size.disconnect();
  }
}

function render({ model, el }) {
  const studio = new Studio(model, el);
  return () => studio.close();
}

export { compose, unpack };
export default { render };
