// The Studio in a browser: three linked slices with a sentence box and tools. Python (medals.widgets) keeps sentences, marks and masks;
// here they are shown and drawn on. A plain module for anywidget: no build step, nothing from the network.
// Goes behind make.js, picture.js, pane.js and panel.js, in one module.

class Studio {
  constructor(model, el) {
    Object.assign(this, { model, id: Math.random().toString(36).slice(2), off: [], window: model.get('window'), hidden: false, flick: false, only: Boolean(model.get('scene').readonly) });
    this.words = new Words(model);
    this.tools = new Tools(this);
    this.contrast = new Contrast(this);
    this.undo = button('Undo', 'Undo (Ctrl+Z)', () => model.send({ type: 'undo' }), 'medals-button medals-undo');
    this.redo = button('Redo', 'Redo (Ctrl+Y)', () => model.send({ type: 'redo' }), 'medals-button medals-redo');
    this.run = button('Run', 'Segment; after a correction only what it touches', () => { this.words.add(); model.send({ type: 'run' }) }, 'medals-button medals-run');
    this.cancel = button('Cancel', 'Stop the run', () => model.send({ type: 'cancel' }));
    this.save = button('Save', 'Masks, table and marks to the folder beside', () => model.send({ type: 'save', out: this.out.value }), 'medals-button medals-save');
    this.load = button('Load', 'Masks and marks from the folder or file of labels beside', () => model.send({ type: 'load', path: this.out.value }), 'medals-button medals-load');
    this.compare = button('Compare', 'Where masks differ from those of the folder or file of labels beside', () => model.send({ type: 'compare', path: model.get('against') ? null : this.out.value }), 'medals-button medals-compare');
    this.against = make('div', 'medals-key');
    this.download = button('Download', 'Masks, table and marks as a zip file to your own disk', () => model.send({ type: 'download', view: this.id }));
    this.out = make('input', 'medals-out', { type: 'text', 'aria-label': 'Folder to save to', title: 'Folder to save to, or to load from' });
    this.auto = this.switch('auto', 'run after each mark', 'Ask the network again as soon as a mark is drawn');
    this.marks = this.switch('marks', 'marks', 'Show marks (M)');
    this.outline = this.switch('outline', 'outlines', 'Outlines only (O)');
    this.bar = make('progress', 'medals-progress', { max: 1, 'aria-label': 'Progress' });
    this.status = make('span', 'medals-status', { role: 'status' });
    this.value = make('div', 'medals-value', { 'aria-label': 'Under the pointer' });
    this.choice = make('select', 'medals-choice', { 'aria-label': 'Scan', title: 'Which scan of this file or folder', onchange: () => model.send({ type: 'choose', number: Number(this.choice.value) }) });
    this.scans = make('label', 'medals-bar medals-scans', {}, 'scan', this.choice);
    this.notes = make('div', 'medals-notes', { role: 'note' });
    this.left = make('div', 'medals-left', { role: 'note' });
    this.panes = PLANES.map(p => new Pane(this, p));
    this.area = make('div', 'medals-panes', {}, ...this.panes.map(p => p.el));
    this.help = helpOf(() => this.ask(false), this.only);
    this.help.hidden = true;
    const looking = [this.contrast.el, this.outline, button('?', 'All keys (?)', () => this.ask(this.help.hidden), 'medals-button medals-ask')];
    const shown = [this.help, this.left, this.notes, this.area, this.against, this.value];
    if (this.only) el.append(this.frame(make('div', 'medals-bar', {}, this.tools.el, ...looking), ...shown)); // slices and compare: nothing to draw, ask or save
    else el.append(this.frame(this.scans, this.words.el, this.tools.el, make('div', 'medals-bar', {}, this.undo, this.redo, looking[0], this.auto, this.marks, ...looking.slice(1)), ...shown,
      make('div', 'medals-bar', {}, this.run, this.cancel, this.bar, this.status, make('span', 'medals-gap'), this.out, this.save, this.load, this.compare, this.download)));
    this.listen();
    this.size = new ResizeObserver(() => this.panes.forEach(p => p.want()));
    this.panes.forEach(p => this.size.observe(p.canvas));
    this.refresh();
  }

  frame(...parts) { return make('div', 'medals-studio', { onkeydown: e => e.stopPropagation() }, ...parts) }

  switch(key, text, title) {
    const box = make('input', '', { type: 'checkbox', 'aria-label': text, onchange: e => this.setView({ [key]: e.target.checked }) });
    const e = make('label', 'medals-switch', { title, 'data-switch': key }, box, text);
    e.box = box;
    return e;
  }

  listen() {
    const { model } = this, on = (event, f) => { model.on(event, f); this.off.push([event, f]) };
    on('change:cursor change:version', () => this.panes.forEach(p => p.want()));
    on('change:scene', () => { this.contrast.names_of(); this.panes.forEach(p => p.fresh()) });
    on('change:window', () => this.look(model.get('window')));
    on('change:classes change:view', () => { this.panes.forEach(p => p.paint()); this.tools.refresh(this.tool) });
    on('change:understood', () => this.words.show());
    on('change:tool change:status change:history change:steps change:active change:out change:choices change:choice change:left change:against change:view change:height change:notes', () => this.refresh());
    on('msg:custom', (m, buffers) => {
      if (m.view !== this.id) return;
      if (m.type === 'file') this.keep(m.name, buffers[0]);
      if (m.type === 'slice') this.panes[m.axis].got(m, buffers);
      if (m.type === 'probe' && this.probed && String(m.at) === String(this.probed.at)) this.tell({ ...this.probed, value: m.value });
    });
  }

  keep(name, data) { // a file to the disk of whoever looks
    const url = URL.createObjectURL(new Blob([data]));
    make('a', '', { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // ---- what Python knows, and what is told to it

  get tool() { return this.model.get('tool') }
  looks() { return Object.fromEntries(this.model.get('classes').map(c => [c.name, c])) }
  how() { const { marks, outline } = this.model.get('view'); return { marks: marks && !this.hidden, masks: !this.hidden, outline } }

  put(changes) {
    for (const [k, v] of Object.entries(changes)) this.model.set(k, v);
    this.model.save_changes();
  }

  setTool(changes) { this.put({ tool: { ...this.tool, ...changes } }) }
  setView(changes) { this.put({ view: { ...this.model.get('view'), ...changes } }) }

  mark(tool, axis, index, points) {
    this.model.send({ type: 'mark', tool, axis, index, points: points.map(p => p.map(x => Math.round(16 * x) / 16)), run: Boolean(this.model.get('view').auto) });
  }

  // ---- the crosshair moves at once, and Python hears of it a moment later

  moveTo(axis, i) {
    const at = [...this.model.get('cursor')];
    at[axis] = clamp(i, 0, this.model.get('scene').shape[axis] - 1);
    this.go(at);
  }

  go(at) {
    if (String(at) === String(this.model.get('cursor'))) return;
    this.model.set('cursor', at);
    clearTimeout(this.told);
    this.told = setTimeout(() => this.model.save_changes(), 120);
  }

  // ---- the grey window lives here; Python hears of it when the hand lets go

  look(window, tell = false) {
    this.window = [...window];
    this.contrast.refresh(this.window);
    this.panes.forEach(p => p.paint());
    if (tell) this.put({ window: this.window });
  }

  resetWindow() {
    const [first] = this.model.get('scene').windows;
    this.look([first.lo, first.hi], true);
  }

  // ---- under the pointer

  point(found) {
    clearTimeout(this.probing);
    this.probed = found;
    this.tell(found);
    if (found && found.value === null) // only a mean is here: ask for the voxel itself
      this.probing = setTimeout(() => this.model.send({ type: 'probe', view: this.id, at: found.at }), 60);
  }

  tell(found) {
    if (!found) { this.value.textContent = ' '; return }
    const { affine } = this.model.get('scene'), mm = affine.slice(0, 3).map(r => r[0] * found.at[0] + r[1] * found.at[1] + r[2] * found.at[2] + r[3]);
    const value = found.value === null ? '…' : Number(found.value.toPrecision(6)) + (this.model.get('scene').kind === 'ct' ? ' HU' : '');
    const sides = mm.map((x, i) => `${Math.abs(x).toFixed(1)} ${'LPIRAS'[3 * (x > 0) + i]}`).join(', ');
    this.value.textContent = `value ${value} · voxel ${this.voxel(mm).join(', ')} · ${sides} mm${found.names.length ? ' · ' + found.names.join(', ') : ''}`;
  }

  voxel(mm) { // of the file, from a place in mm
    return this.model.get('scene').to_file.slice(0, 3).map(r => Math.round(r[0] * mm[0] + r[1] * mm[1] + r[2] * mm[2] + r[3]));
  }

  // ---- keys

  key(e, plane) { // was it one of ours?
    const letter = e.key.toLowerCase(), ctrl = e.ctrlKey || e.metaKey, { model } = this, view = model.get('view');
    if (this.only && (ctrl || /^[xb[\]]$/.test(letter) || (/^[0-9]$/.test(letter) && !LOOKING.includes(TOOLS[(Number(letter) + 9) % 10][0])))) return false;
    if (ctrl && letter === 'z') model.send({ type: e.shiftKey ? 'redo' : 'undo' });
    else if (ctrl && letter === 'y') model.send({ type: 'redo' });
    else if (ctrl || e.altKey) return false;
    else if (/^[0-9]$/.test(e.key)) this.setTool({ name: TOOLS[(Number(e.key) + 9) % 10][0] });
    else if (letter === 'x') this.setTool({ positive: !this.tool.positive });
    else if (letter === '[' || letter === ']') this.setTool({ radius: clamp(this.tool.radius + (letter === ']' ? .5 : -.5), .5, 50) });
    else if (letter === 'r') this.resetWindow();
    else if (letter === 'm') this.setView({ marks: !view.marks });
    else if (letter === 'o') this.setView({ outline: !view.outline });
    else if (letter === 'f') this.enlarge(plane);
    else if (letter === 'h') this.hide(true);
    else if (letter === 'b') this.flicker(true);
    else if (letter === '?') this.ask(this.help.hidden);
    else if (e.key === 'Escape' && !this.help.hidden) this.ask(false);
    else return false;
    return true;
  }

  hide(on) { // the scan alone, while a key is held
    if (this.hidden === on) return;
    this.hidden = on;
    this.panes.forEach(p => p.paint());
  }

  flicker(on) { // before the last step, while a key is held
    if (this.flick === on) return;
    this.flick = on;
    this.panes.forEach(p => p.want());
  }

  ask(open) { this.help.hidden = !open }
  enlarge(plane) { this.setView({ large: this.model.get('view').large === plane ? null : plane }) }

  refresh() {
    const { model } = this, tool = this.tool, status = model.get('status'), history = model.get('history'), steps = model.get('steps'), view = model.get('view');
    this.tools.refresh(tool);
    this.contrast.refresh(this.window);
    for (const [b, n, name, word] of [[this.undo, history.undo, steps.undo, 'Undo'], [this.redo, history.redo, steps.redo, 'Redo']]) {
      b.disabled = !n;
      b.textContent = n && name ? `${word}: ${name}` : word;
    }
    for (const s of [this.auto, this.marks, this.outline]) s.box.checked = Boolean(view[s.getAttribute('data-switch')]);
    this.auto.hidden = !status.can_run;
    this.run.disabled = status.busy || !status.can_run;
    this.run.classList.toggle('medals-stale', Boolean(status.stale && !status.busy));
    this.cancel.hidden = this.bar.hidden = !status.busy;
    if (status.total) this.bar.value = status.done / status.total; else this.bar.removeAttribute('value');
    this.status.textContent = status.text;
    this.status.classList.toggle('medals-wrong', Boolean(status.wrong));
    if (document.activeElement !== this.out) this.out.value = model.get('out');
    this.save.disabled = status.busy;
    this.notes.replaceChildren(...(model.get('notes') || []).map(text => make('div', '', {}, text)));
    const against = model.get('against'), sign = (colour, text) => make('span', '', {}, make('i', '', { style: `background: ${colour}` }), text);
    this.compare.textContent = against ? 'End comparison' : 'Compare';
    this.against.replaceChildren(...(against ? [sign(DIFFERENCE.more, `only ${model.get('scene').here ? 'in ' + model.get('scene').here : 'here'}`), sign(DIFFERENCE.less, `only in ${against}`), 'both: the colour of the class'] : []));
    const left = model.get('left');
    this.left.replaceChildren(...(left ? [make('span', '', {}, left),
      button('Take up', 'Go on where that work has stopped, with everything that can be undone', () => model.send({ type: 'take_up' }), 'medals-button medals-take-up'),
      button('Not now', 'Leave it where it is', () => model.send({ type: 'not_now' }))] : []));
    const choices = model.get('choices') || [];
    this.scans.hidden = choices.length < 2;
    if (choices.join('\n') !== this.offered) {
      this.offered = choices.join('\n');
      this.choice.replaceChildren(...choices.map((text, i) => make('option', '', { value: i }, text)));
    }
    this.choice.value = model.get('choice');
    this.choice.disabled = Boolean(status.busy);
    this.area.classList.toggle('medals-one', Boolean(view.large));
    for (const p of this.panes) {
      const large = view.large === p.plane.name, height = large ? Math.max(model.get('height'), Math.round(window.innerHeight * .7)) : model.get('height');
      p.el.classList.toggle('medals-big', large);
      p.canvas.style.height = `${height}px`;
      p.canvas.style.cursor = PENS.includes(tool.name) ? 'none' : tool.name === 'move' ? 'crosshair' : 'cell';
    }
  }

  close() {
    this.off.forEach(([event, f]) => this.model.off(event, f));
    this.size.disconnect();
    clearTimeout(this.told);
    clearTimeout(this.probing);
  }
}

function render({ model, el }) {
  const studio = new Studio(model, el);
  return () => studio.close();
}

export { compose, greys, numbers, unpack };
export default { render };
