// One plane: which slice it wants, what it draws, and what a hand does on it.
// Positions are columns and rows of a slice in voxels; whole numbers are the middle of a voxel.

const PLANES = [   // axis that is cut, axes of columns and rows, letters: left, right, top, bottom
  { name: 'sagittal', axis: 0, col: 1, row: 2, letters: 'APSI' },
  { name: 'coronal', axis: 1, col: 0, row: 2, letters: 'RLSI' },
  { name: 'axial', axis: 2, col: 0, row: 1, letters: 'RLAP' }];

const KEPT = 160;      // slices that are remembered
const AHEAD = 3;       // slices that are fetched before they are asked for
const QUICK = 250;     // pixels along a side while slices fly by; the rest follows when they stand still
const REST = 180;      // ms after which they do
const PATIENCE = 4000; // ms to wait for a slice before it is asked for again
const PENS = ['scribble', 'eraser', 'brush', 'rubber'];
const RULERS = ['ruler', 'angle'];
const MARKS = ['point', 'box', 'scribble', 'lasso'];

// ---- slices that have been fetched, the oldest go first

class Shelf {
  constructor() { Object.assign(this, { slices: new Map(), asked: new Map() }) }
  get(key) {
    const s = this.slices.get(key);
    if (s) { this.slices.delete(key); this.slices.set(key, s) } // used now
    return s;
  }
  put(key, s) {
    this.slices.set(key, s);
    this.asked.delete(key);
    while (this.slices.size > KEPT) this.slices.delete(this.slices.keys().next().value);
  }
  waiting(key) { return performance.now() - (this.asked.get(key) ?? -PATIENCE) < PATIENCE }
}

class Pane {
  constructor(ui, plane) {
    Object.assign(this, { ui, plane, model: ui.model, shelf: new Shelf(), shown: null, hand: null, ahead: 1, last: null });
    this.canvas = make('canvas', 'medals-canvas', { tabindex: 0, role: 'img', title: 'Press ? for keys' });
    this.picture = make('canvas');
    this.slider = make('input', 'medals-slider', { type: 'range', min: 0, step: 1, 'aria-label': `${plane.name} slice`,
      oninput: () => ui.moveTo(plane.axis, this.size(plane.axis) - 1 - this.slider.valueAsNumber) });
    this.label = make('span', 'medals-label');
    this.large = make('button', 'medals-large', { type: 'button', title: 'This plane large, or as before (F)', 'aria-label': `${plane.name} large`,
      onclick: () => ui.enlarge(plane.name) }, 'large');
    this.el = make('figure', 'medals-pane', { 'data-plane': plane.name }, this.canvas,
      make('figcaption', '', {}, this.slider, this.label, this.large));
    this.whole();
    for (const [event, f] of Object.entries({ pointerdown: this.down, pointermove: this.drag, pointerup: this.up, pointercancel: this.up,
      pointerleave: this.leave, wheel: this.wheel, dblclick: this.whole, keydown: this.key, keyup: this.keyUp, blur: this.keyUp }))
      this.canvas.addEventListener(event, f.bind(this), { passive: false });
    this.canvas.addEventListener('contextmenu', e => { e.preventDefault(); e.stopPropagation() });
  }

  size(axis) { return this.model.get('scene').shape[axis] }
  spacing(axis) { return this.model.get('scene').spacing[axis] }
  get cols() { return this.size(this.plane.col) }
  get rows() { return this.size(this.plane.row) }
  get index() { return this.model.get('cursor')[this.plane.axis] }

  // ---- where things are

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

  fresh() { // another scan
    Object.assign(this, { shelf: new Shelf(), shown: null, hand: null, measure: null, last: null });
    this.whole();
  }

  // ---- slices: coarse while they fly by, as fine as the screen when they stand still

  request(index, quick) { // what is asked for, and the key under which it is kept
    const rect = this.rect(), long = Math.max(rect[2] - rect[0], rect[3] - rect[1]), [sx, sy] = this.fit();
    const fine = Math.max(1, Math.floor(1 / (Math.max(sx, sy) * (window.devicePixelRatio || 1)) + 1e-6));
    const step = quick ? Math.max(fine, Math.ceil(long / QUICK)) : fine;
    const before = this.ui.flick;
    return { index, rect, step, before, key: [this.model.get('scene').scan, index, ...rect, step, before ? 'before' : ''].join(' ') };
  }

  fetch(wanted) {
    const there = this.shelf.get(wanted.key), version = this.model.get('version');
    if (there && there.version === version) return there;
    const key = `${wanted.key} ${version}`;
    if (!this.shelf.waiting(key)) {
      this.shelf.asked.set(key, performance.now());
      this.model.send({ type: 'slice', view: this.ui.id, axis: this.plane.axis, grey: !there, ...wanted });
    }
    return there;
  }

  want() { // the slice under the crosshair, now if it is here, and those that come next
    if (!this.canvas.clientWidth) return;
    const { index } = this, moving = this.last !== null && this.last !== index;
    if (moving) this.ahead = Math.sign(index - this.last);
    this.last = index;
    const fine = this.request(index, false), quick = this.request(index, true);
    const fast = moving && !this.shelf.slices.has(fine.key);
    clearTimeout(this.rest);
    this.show(this.fetch(fast ? quick : fine) || this.shelf.get(fine.key) || this.shelf.get(quick.key));
    for (let k = 1; moving && k <= AHEAD; k++) {
      const next = index + k * this.ahead;
      if (next >= 0 && next < this.size(this.plane.axis)) this.fetch(this.request(next, true));
    }
    if (fast) this.rest = setTimeout(() => this.want(), REST);
    this.draw();
  }

  async got(m, buffers) {
    if (m.key.split(' ')[0] !== String(this.model.get('scene').scan)) return; // of the scan before
    const n = m.w * m.h, before = this.shelf.slices.get(m.key), packed = await Promise.all(buffers.map(inflate));
    const layers = m.layers.map(([kind, name], i) => ({ kind, name, mask: unpack(packed[i + m.grey], n) }));
    const slice = m.grey ? { ...m, values: numbers(packed[0], m.w, m.h, m.bytes), layers } : before && { ...before, layers, version: m.version };
    this.shelf.asked.delete(`${m.key} ${m.version}`);
    if (!slice) return this.want();
    this.shelf.put(m.key, slice);
    if (m.index !== this.index || Boolean(m.before) !== this.ui.flick) return;
    const finer = !this.shown || this.shown.index !== m.index || Boolean(this.shown.before) !== this.ui.flick || m.step <= this.shown.step || m.version > this.shown.version;
    if (finer) this.show(slice);
    if (m.version !== this.model.get('version')) this.want();
  }

  show(slice) {
    if (!slice || this.shown === slice) return;
    this.shown = slice;
    this.paint();
  }

  paint() { // grey values, masks and marks into the picture; needs no Python
    if (!this.shown) return;
    const { w, h, layers } = this.shown;
    Object.assign(this.picture, { width: w, height: h });
    const grey = greys(this.shown, this.ui.window);
    this.picture.getContext('2d').putImageData(compose({ grey, w, h, layers }, this.ui.looks(), this.ui.how()), 0, 0);
    this.draw();
  }

  // ---- the picture, and what lies over it

  draw() {
    const dpr = window.devicePixelRatio || 1, w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(w * dpr) || this.canvas.height !== Math.round(h * dpr))
      Object.assign(this.canvas, { width: Math.round(w * dpr), height: Math.round(h * dpr) });
    const g = this.canvas.getContext('2d');
    g.setTransform(dpr, 0, 0, dpr, 0, 0);
    g.fillStyle = '#000';
    g.fillRect(0, 0, w, h);
    if (this.shown && this.shown.index === this.index) {
      const { rect: [c, r], step, w: pw, h: ph } = this.shown, [x, y] = this.toScreen(c - .5, r - .5), [sx, sy] = this.fit();
      g.imageSmoothingEnabled = false;
      g.drawImage(this.picture, x, y, pw * step * sx, ph * step * sy);
    }
    if (this.shown && this.shown.index === this.index) this.canvas.dataset.shown = this.index; // for whoever measures
    if (!this.ui.hidden) this.drawCross(g, w, h);
    if (this.hand) this.drawHand(g);
    else if (this.pointer && PENS.includes(this.ui.tool.name)) this.drawPen(g);
    if (!this.hand && this.measure && this.measure.index === this.index && RULERS.includes(this.ui.tool.name)) this.drawMeasure(g, this.measure.points);
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

  penWidth() { return Math.max(2, 2 * this.ui.tool.radius / this.spacing(this.plane.col) * this.fit()[0]) }

  drawPen(g) { // the circle that a pen will cover
    const [x, y] = this.toScreen(...this.pointer);
    g.strokeStyle = '#fff';
    g.lineWidth = 1;
    g.beginPath();
    g.arc(x, y, this.penWidth() / 2, 0, 7);
    g.stroke();
  }

  drawHand(g) { // what is being drawn now
    const { tool, path } = this.hand, look = this.ui.looks()[this.model.get('active')];
    if (RULERS.includes(tool)) return this.drawMeasure(g, [path[0], path[path.length - 1]]);
    const p = path.map(([c, r]) => this.toScreen(c, r)), pen = PENS.includes(tool), takes = tool === 'eraser' || tool === 'rubber';
    g.strokeStyle = g.fillStyle = takes ? '#fff' : look ? look.colour : '#fff';
    g.lineCap = g.lineJoin = 'round';
    g.globalAlpha = pen ? .6 : 1;
    g.setLineDash(this.ui.tool.positive || pen ? [] : [5, 4]);
    g.lineWidth = pen ? this.penWidth() : 2;
    g.beginPath();
    if (tool === 'box') { const [a, b] = [p[0], p[p.length - 1]]; g.rect(a[0], a[1], b[0] - a[0], b[1] - a[1]) }
    else { p.forEach(([x, y], i) => i ? g.lineTo(x, y) : g.moveTo(x, y)); if (p.length === 1) g.lineTo(p[0][0] + .1, p[0][1]) }
    if (tool === 'lasso') g.closePath();
    g.stroke();
    g.setLineDash([]);
    g.globalAlpha = 1;
  }

  drawMeasure(g, points) { // a line and its length in mm, or two sides of an angle and its degrees; the second point is the corner
    const p = points.map(o => this.toScreen(...o)), mm = points.map(([c, r]) => [c * this.spacing(this.plane.col), r * this.spacing(this.plane.row)]);
    const along = (a, b) => [mm[b][0] - mm[a][0], mm[b][1] - mm[a][1]], length = Math.hypot(...along(0, 1));
    let text = `${length.toFixed(1)} mm`;
    if (points.length > 2) {
      const [a, b] = [along(1, 0), along(1, 2)], turn = Math.atan2(a[0] * b[1] - a[1] * b[0], a[0] * b[0] + a[1] * b[1]);
      if (Math.hypot(...b)) text = `${Math.abs(turn * 180 / Math.PI).toFixed(1)}°`;
    }
    Object.assign(g, { strokeStyle: '#ffdc3c', lineWidth: 2, font: 'bold 13px sans-serif', textAlign: 'left', textBaseline: 'middle' });
    g.beginPath();
    p.forEach(([x, y], i) => i ? g.lineTo(x, y) : g.moveTo(x, y));
    g.stroke();
    const [x, y] = p[p.length - 1];
    Object.assign(g, { strokeStyle: '#000', lineWidth: 3, fillStyle: '#ffdc3c' });
    g.strokeText(text, x + 8, y - 8);
    g.fillText(text, x + 8, y - 8);
    this.canvas.dataset.measured = text;
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
    const n = this.size(this.plane.axis), step = this.shown ? this.shown.step : 1;
    this.slider.max = n - 1;
    this.slider.value = n - 1 - this.index;
    this.label.textContent = `${this.plane.name} ${n - this.index}/${n}`;
    this.label.title = step > 1 ? `every ${step} voxels are shown as one; zoom in for all` : '';
    this.canvas.setAttribute('aria-label', `${this.plane.name} slice ${n - this.index} of ${n}`);
  }

  // ---- what lies under the pointer

  voxelAt([c, r]) { // voxel of the screen, or null beside the scan
    const at = [...this.model.get('cursor')];
    [at[this.plane.col], at[this.plane.row]] = [Math.round(c), Math.round(r)];
    return at.every((v, i) => v >= 0 && v < this.size(i)) ? at : null;
  }

  under(place) { // voxel, value and names of masks; the value is null where only a mean is here
    const at = this.voxelAt(place), s = this.shown;
    if (!at || !s || s.index !== this.index) return at && { at, value: null, names: [] };
    const x = Math.floor((at[this.plane.col] - s.rect[0]) / s.step), y = Math.floor((at[this.plane.row] - s.rect[1]) / s.step), i = y * s.w + x;
    if (x < 0 || y < 0 || x >= s.w || y >= s.h) return { at, value: null, names: [] };
    const names = s.layers.filter(l => (l.kind === 'mask' || l.kind === 'more') && l.mask[i]).map(l => l.name);
    return { at, value: s.step === 1 ? s.values[i] * s.scale + s.offset : null, names };
  }

  // ---- the hand

  down(e) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(e.pointerId);
    e.preventDefault();
    if (this.measure && this.measure.open && e.button === 0) { // the end of the second side
      Object.assign(this.measure, { open: false });
      this.measure.points[2] = this.toVoxel(e);
      return this.draw();
    }
    const tool = e.button === 2 ? 'window' : e.button === 1 || e.shiftKey ? 'pan' : e.altKey ? 'move' : this.ui.tool.name;
    this.hand = { tool, path: [this.toVoxel(e)], x: e.clientX, y: e.clientY, window: this.ui.window, view: { ...this.view } };
    if (tool === 'move') this.cross(e);
    this.draw();
  }

  drag(e) {
    this.pointer = this.toVoxel(e);
    this.ui.point(this.under(this.pointer));
    if (!this.hand && this.measure && this.measure.open) { this.measure.points[2] = this.pointer; return this.draw() }
    if (!this.hand) return PENS.includes(this.ui.tool.name) ? this.draw() : undefined;
    const { tool, x, y, window: [lo, hi], view } = this.hand, dx = e.clientX - x, dy = e.clientY - y;
    if (tool === 'move') this.cross(e);
    else if (tool === 'pan') {
      const [sx, sy] = this.fit();
      Object.assign(this.view, { c: view.c - dx / sx, r: view.r - dy / sy });
      this.want();
    } else if (tool === 'window') {
      const width = Math.max((hi - lo) * Math.exp(dx / 200), 1e-6), centre = (lo + hi) / 2 + dy / 200 * (hi - lo);
      this.ui.look([centre - width / 2, centre + width / 2]);
    } else {
      this.hand.path.push(this.pointer);
      this.draw();
    }
  }

  up(e) {
    const hand = this.hand;
    this.hand = null;
    if (!hand) return;
    if (hand.tool === 'window') this.ui.put({ window: this.ui.window }); // Python hears of it once
    if (RULERS.includes(hand.tool)) { // it stays until something is measured again
      const [a, b] = [hand.path[0], hand.path[hand.path.length - 1]], open = hand.tool === 'angle';
      this.measure = { points: open ? [a, b, b] : [a, b], index: this.index, open };
      return this.draw();
    }
    if (e.type === 'pointerup' && !['move', 'pan', 'window'].includes(hand.tool)) this.ui.mark(hand.tool, this.plane.axis, this.index, hand.path);
    this.draw();
  }

  leave() {
    this.pointer = null;
    this.ui.point(null);
    if (!this.hand && PENS.includes(this.ui.tool.name)) this.draw();
  }

  cross(e) {
    const [c, r] = this.toVoxel(e), at = [...this.model.get('cursor')];
    at[this.plane.col] = clamp(Math.round(c), 0, this.cols - 1);
    at[this.plane.row] = clamp(Math.round(r), 0, this.rows - 1);
    this.ui.go(at);
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
    const moves = { ArrowLeft: [col, -1], ArrowRight: [col, 1], ArrowUp: [row, -1], ArrowDown: [row, 1], PageUp: [axis, -1], PageDown: [axis, 1] };
    const [along, by] = moves[e.key] || [];
    if (along !== undefined && !e.ctrlKey && !e.altKey && !e.metaKey) ui.moveTo(along, at[along] + by);
    else if (e.key === 'Enter' && !ui.only) ui.mark('point', axis, this.index, [[at[col], at[row]]]);
    else if (!ui.key(e, this.plane.name)) return;
    e.preventDefault();
  }

  keyUp(e) {
    const letter = e.type === 'blur' ? '' : e.key.toLowerCase();
    if (!letter || letter === 'h') this.ui.hide(false);
    if (!letter || letter === 'b') this.ui.flicker(false);
  }
}
