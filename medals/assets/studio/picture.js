// Numbers and bits from Python, as pixels. `compose` does the same arithmetic as the page `studio/00_layers`, and a test compares them.

const clamp = (x, lo, hi) => Math.min(Math.max(x, lo), hi);
const rgb = c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16));

function unpack(bits, n) { // one bit per pixel
  const m = new Uint8Array(n);
  for (let i = 0; i < n; i++) m[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  return m;
}

function numbers(planes, w, h, width) { // differences along the rows, low bytes first, as whole numbers
  const n = w * h, out = width === 2 ? new Int16Array(n) : new Uint8Array(n);
  for (let y = 0, i = 0; y < h; y++) for (let x = 0, last = 0; x < w; x++, i++)
    out[i] = last += width === 2 ? planes[i] | planes[n + i] << 8 : planes[i];
  return out;
}

function greys(tile, [lo, hi]) { // numbers of a slice, seen through a window of values
  const { values, scale, offset } = tile, out = new Uint8Array(values.length), k = 255 / Math.max(hi - lo, 1e-9);
  for (let i = 0; i < values.length; i++) out[i] = clamp(Math.round((values[i] * scale + offset - lo) * k), 0, 255);
  return out;
}

function edges(m, w, h) { // pixels of a mask with a neighbour outside it
  const e = new Uint8Array(m.length);
  for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i++)
    e[i] = m[i] && !((y === 0 || m[i - w]) && (y === h - 1 || m[i + w]) && (x === 0 || m[i - 1]) && (x === w - 1 || m[i + 1]));
  return e;
}

const TINTS = { positive: .6, negative: .3, more: .7, less: .7 };
const DIFFERENCE = { more: '#e6321e', less: '#1e78ff' }; // only here, only there
const MASKS = ['mask', 'more', 'less'];

function blend(out, layer, look, w, h, outline) { // a tint with a stronger edge; `outline`: the edge alone
  const { mask, kind } = layer, e = layer.edge || (layer.edge = edges(mask, w, h)), f = Math.fround;
  const colour = rgb(DIFFERENCE[kind] || look.colour), alpha = outline ? 0 : f(TINTS[kind] ?? look.opacity);
  const edgeAlpha = kind !== 'mask' || outline ? 1 : Math.min(1, f(alpha + .5)), edgeColour = kind === 'positive' ? [255, 255, 255] : colour;
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const chequer = (((i % w >> 1) + (Math.floor(i / w) >> 1)) % 2) * 255, a = e[i] ? edgeAlpha : alpha;
    for (let k = 0; k < 3; k++) {
      const c = e[i] ? edgeColour[k] : kind === 'negative' ? chequer : colour[k];
      out[3 * i + k] = out[3 * i + k] * (1 - a) + c * a;
    }
  }
}

function compose(cut, looks, how = {}) { // a picture of a slice with masks and marks
  const { grey, w, h } = cut, out = new Float32Array(3 * w * h), image = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = grey[i];
  for (const layer of cut.layers) {
    const look = looks[layer.name], hidden = MASKS.includes(layer.kind) ? how.masks === false : how.marks === false;
    if (look && look.visible && !hidden) blend(out, layer, look, w, h, how.outline);
  }
  for (let i = 0; i < w * h; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = Math.round(out[3 * i + k]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}
