// Masks as surfaces, drawn with WebGL. Python (medals.studio.surfaces) keeps the meshes and sends one when it is asked for.
// Places are mm of the patient: to the right, to the front, up. Drag turns, the wheel zooms, Shift and drag moves, a click goes there.

const VERTEX = `#version 300 es
  uniform mat4 view; uniform mat3 turn; in vec3 at; in vec3 normal; out vec3 facing;
  void main() { gl_Position = view * vec4(at, 1.0); facing = turn * normal; }`;
const FRAGMENT = `#version 300 es
  precision highp float; uniform vec4 colour; in vec3 facing; out vec4 pixel;
  void main() { vec3 n = normalize(facing); float light = 0.25 + 0.75 * abs(dot(n, normalize(vec3(0.25, 0.45, 0.85))));
    pixel = vec4(colour.rgb * light * colour.a, colour.a); }`;

const KEPT_MESHES = 12; // that are not shown now, as in Python

function normals(points, triangles) { // of each point, from the triangles around it
  const out = new Float32Array(points.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const u = [0, 1, 2].map(k => points[b + k] - points[a + k]), v = [0, 1, 2].map(k => points[c + k] - points[a + k]);
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) out[corner + k] += n[k];
  }
  return out;
}

async function meshOf(m, buffers) { // points in mm, normals, triangles
  const steps = new Uint16Array((await inflate(buffers[0])).buffer), change = new Int32Array((await inflate(buffers[1])).buffer);
  const points = new Float32Array(steps.length), triangles = new Uint32Array(change.length);
  for (let i = 0; i < steps.length; i++) points[i] = steps[i] * m.step[i % 3] + m.lo[i % 3];
  for (let i = 0, last = 0; i < change.length; i++) triangles[i] = last += change[i];
  return { points, triangles, normals: normals(points, triangles) };
}

// ---- turning: rows of a rotation, from the patient to the eye (right, up, towards the viewer)

function rotation(around, tilt) {
  const [c, s, d, e] = [Math.cos(around), Math.sin(around), Math.cos(tilt), Math.sin(tilt)];
  return [[c, s, 0], [s * e, -c * e, d], [s * d, -c * d, -e]];
}
const times = (rows, p) => rows.map(r => r[0] * p[0] + r[1] * p[1] + r[2] * p[2]);

// ---- the view

class Solid {
  constructor(model, el) {
    Object.assign(this, { model, meshes: new Map(), asked: new Set(), around: Math.PI + .6, tilt: -.25, zoom: 1, shift: [0, 0], off: [] });
    this.canvas = make('canvas', 'medals-solid', { tabindex: 0, role: 'img', 'aria-label': 'Masks in 3D',
      title: 'Drag: turn. Wheel: zoom. Shift+drag: move. Click: go there. Double click: as at first.' });
    this.letters = make('canvas', 'medals-letters');
    this.note = make('p', 'medals-none');
    this.el = make('div', 'medals-solid-box', {}, this.canvas, this.letters, this.note);
    el.append(this.el);
    this.gl = this.canvas.getContext('webgl2', { antialias: true, preserveDrawingBuffer: true });
    if (!this.gl) { this.note.textContent = 'This browser has no WebGL: the masks are in the slices only.'; return }
    this.program = this.link();
    for (const [event, f] of Object.entries({ pointerdown: this.down, pointermove: this.drag, pointerup: this.up, wheel: this.wheel, dblclick: this.home }))
      this.canvas.addEventListener(event, f.bind(this), { passive: false });
    const on = (event, f) => { model.on(event, f); this.off.push([event, f]) };
    on('change:bodies', () => this.fetch());
    on('change:place change:height', () => this.later());
    on('msg:custom', (m, buffers) => { if (m.type === 'mesh') this.got(m, buffers) });
    this.seen = new ResizeObserver(() => this.later());
    this.seen.observe(this.canvas);
    this.fetch();
  }

  link() {
    const { gl } = this, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, 'at');
    gl.bindAttribLocation(program, 1, 'normal');
    gl.linkProgram(program);
    return program;
  }

  fetch() { // ask for what is new, forget what is gone
    const wanted = new Set(this.model.get('bodies').map(b => b.mesh));
    const others = [...this.meshes.keys()].filter(number => !wanted.has(number)); // undo brings the last ones back
    for (const number of others.slice(0, -KEPT_MESHES)) { this.drop(this.meshes.get(number)); this.meshes.delete(number) }
    for (const number of wanted) if (!this.meshes.has(number) && !this.asked.has(number)) {
      this.asked.add(number);
      this.model.send({ type: 'mesh', mesh: number });
    }
    this.later();
  }

  drop(mesh) { for (const b of mesh.buffers) this.gl.deleteBuffer(b); this.gl.deleteVertexArray(mesh.array) }

  async got(m, buffers) {
    const { gl } = this, mesh = await meshOf(m, buffers);
    this.asked.delete(m.mesh);
    if (this.meshes.has(m.mesh)) return;
    mesh.array = gl.createVertexArray();
    gl.bindVertexArray(mesh.array);
    mesh.buffers = [mesh.points, mesh.normals, mesh.triangles].map((data, i) => {
      const buffer = gl.createBuffer(), kind = i < 2 ? gl.ARRAY_BUFFER : gl.ELEMENT_ARRAY_BUFFER;
      gl.bindBuffer(kind, buffer);
      gl.bufferData(kind, data, gl.STATIC_DRAW);
      if (i < 2) { gl.enableVertexAttribArray(i); gl.vertexAttribPointer(i, 3, gl.FLOAT, false, 0, 0) }
      return buffer;
    });
    this.meshes.set(m.mesh, mesh);
    this.later();
  }

  // ---- from mm to the screen: everything fits into a ball around the middle of the scan

  frame() {
    const [a, b] = this.model.get('scene').ends, middle = a.map((x, i) => (x + b[i]) / 2);
    const radius = Math.hypot(...a.map((x, i) => x - b[i])) / 2 || 1;
    const w = this.canvas.clientWidth, h = this.canvas.clientHeight, s = 1.25 * this.zoom / radius * Math.min(w, h);
    return { middle, radius, w, h, sx: s / w, sy: s / h, rows: rotation(this.around, this.tilt) };
  }

  toScreen(p, f) { // clip coordinates of a place in mm
    const [x, y, z] = times(f.rows, p.map((v, i) => v - f.middle[i]));
    return [x * f.sx + this.shift[0], y * f.sy + this.shift[1], -z / (f.radius * 4)];
  }

  matrix(f) {
    const { rows, middle } = f, scale = [f.sx, f.sy, -1 / (f.radius * 4)];
    const moved = times(rows, middle), m = new Float32Array(16);
    for (let r = 0; r < 3; r++) {
      for (let c = 0; c < 3; c++) m[4 * c + r] = rows[r][c] * scale[r];
      m[12 + r] = -moved[r] * scale[r] + (this.shift[r] || 0);
    }
    m[15] = 1;
    return m;
  }

  later() { // once per frame
    if (this.waiting || !this.gl) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw() });
  }

  draw() {
    const { gl, canvas } = this, dpr = window.devicePixelRatio || 1;
    canvas.style.height = this.el.style.height = `${this.model.get('height')}px`;
    const w = Math.round(canvas.clientWidth * dpr), h = Math.round(canvas.clientHeight * dpr);
    if (!w || !h) return;
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const f = this.frame(), at = name => gl.getUniformLocation(this.program, name);
    gl.viewport(0, 0, w, h);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(this.program);
    gl.uniformMatrix4fv(at('view'), false, this.matrix(f));
    gl.uniformMatrix3fv(at('turn'), true, f.rows.flat());
    const bodies = this.model.get('bodies').filter(b => b.visible && b.opacity > 0 && this.meshes.has(b.mesh));
    bodies.sort((a, b) => b.opacity - a.opacity); // what is solid first, so that it shines through the rest
    for (const body of bodies) {
      const mesh = this.meshes.get(body.mesh), colour = [1, 3, 5].map(i => parseInt(body.colour.slice(i, i + 2), 16) / 255);
      gl.depthMask(body.opacity >= .99);
      gl.uniform4f(at('colour'), ...colour, body.opacity);
      gl.bindVertexArray(mesh.array);
      gl.drawElements(gl.TRIANGLES, mesh.triangles.length, gl.UNSIGNED_INT, 0);
    }
    gl.depthMask(true);
    this.write(f, dpr);
  }

  write(f, dpr) { // the box of the scan, letters, and the crosshair
    const { letters } = this, g = letters.getContext('2d');
    Object.assign(letters, { width: Math.round(f.w * dpr), height: Math.round(f.h * dpr) });
    g.setTransform(dpr, 0, 0, dpr, 0, 0);
    const screen = p => { const [x, y] = this.toScreen(p, f); return [(x + 1) / 2 * f.w, (1 - y) / 2 * f.h] };
    const line = (p, q) => { g.beginPath(); g.moveTo(...screen(p)); g.lineTo(...screen(q)); g.stroke() };
    const [a, b] = this.model.get('scene').ends, corner = bits => [0, 1, 2].map(i => bits >> i & 1 ? b[i] : a[i]);
    g.strokeStyle = 'rgba(255,255,255,.25)';
    for (let i = 0; i < 8; i++) for (let k = 0; k < 3; k++) if (!(i >> k & 1)) line(corner(i), corner(i | 1 << k));
    g.fillStyle = '#fff';
    Object.assign(g, { font: 'bold 12px sans-serif', textAlign: 'center', textBaseline: 'middle' });
    [['R', 'L'], ['A', 'P'], ['S', 'I']].forEach(([more, less], i) => {
      for (const [letter, end] of [[more, Math.max(a[i], b[i])], [less, Math.min(a[i], b[i])]]) {
        const p = [...f.middle];
        p[i] = end;
        g.fillText(letter, ...screen(p));
      }
    });
    const place = this.model.get('place');
    if (place.length !== 3) return;
    g.strokeStyle = 'rgba(255,220,60,.8)';
    for (let i = 0; i < 3; i++) {
      const p = [...place], q = [...place];
      [p[i], q[i]] = [a[i], b[i]];
      line(p, q);
    }
  }

  // ---- the hand

  down(e) {
    this.canvas.setPointerCapture(e.pointerId);
    this.hand = { x: e.clientX, y: e.clientY, moved: false };
  }

  drag(e) {
    if (!this.hand) return;
    const dx = e.clientX - this.hand.x, dy = e.clientY - this.hand.y;
    if (!this.hand.moved && Math.hypot(dx, dy) < 4) return;
    Object.assign(this.hand, { x: e.clientX, y: e.clientY, moved: true });
    if (e.shiftKey) { this.shift[0] += 2 * dx / this.canvas.clientWidth; this.shift[1] -= 2 * dy / this.canvas.clientHeight }
    else { this.around += dx / 120; this.tilt = Math.min(Math.max(this.tilt - dy / 120, -1.5), 1.5) }
    this.later();
  }

  up(e) {
    const hand = this.hand;
    this.hand = null;
    if (!hand || hand.moved) return;
    const mm = this.pick(e);
    if (mm) this.model.send({ type: 'pick', mm });
  }

  pick(e) { // the point of a visible body that lies nearest to the viewer, close to the pointer
    const box = this.canvas.getBoundingClientRect(), f = this.frame(), px = e.clientX - box.left, py = e.clientY - box.top;
    let best = null, nearest = Infinity;
    for (const body of this.model.get('bodies')) {
      const mesh = this.meshes.get(body.mesh);
      if (!body.visible || !mesh) continue;
      for (let i = 0; i < mesh.points.length; i += 3) {
        const p = [mesh.points[i], mesh.points[i + 1], mesh.points[i + 2]], [x, y, z] = this.toScreen(p, f);
        if (Math.hypot((x + 1) / 2 * f.w - px, (1 - y) / 2 * f.h - py) < 6 && z < nearest) { nearest = z; best = p }
      }
    }
    return best;
  }

  wheel(e) {
    e.preventDefault();
    this.zoom = Math.min(Math.max(this.zoom * Math.exp(-e.deltaY / 500), .3), 20);
    this.later();
  }

  home() {
    Object.assign(this, { around: Math.PI + .6, tilt: -.25, zoom: 1, shift: [0, 0] });
    this.later();
  }

  close() {
    this.off.forEach(([event, f]) => this.model.off(event, f));
    if (this.seen) this.seen.disconnect();
    const lose = this.gl && this.gl.getExtension('WEBGL_lose_context'); // a browser has only some sixteen contexts
    if (lose) lose.loseContext();
  }
}

function render({ model, el }) {
  const solid = new Solid(model, el);
  return () => solid.close();
}

export default { render };
