// What the front ends have in common; goes before each of them, in one module.

// An element with a class, attributes, listeners (`onclick`, ...) and what is in it
function make(tag, className, attributes = {}, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  for (const [k, v] of Object.entries(attributes)) k.startsWith('on') ? e.addEventListener(k.slice(2), v) : e.setAttribute(k, v);
  // JupyterLab looks for this on the element that has the focus: no key pressed here is a command of the notebook
  if (['canvas', 'input', 'button', 'select'].includes(tag)) e.setAttribute('data-lm-suppress-shortcuts', 'true');
  e.append(...children);
  return e;
}

// Sentences that could be asked instead, as buttons
function offersOf(model, offers, taken = () => {}) {
  return (offers || []).map(o => make('button', 'medals-offer', { type: 'button', title: `Ask for ${o.sentences.join(', ')}`,
    onclick: () => { taken(); model.send({ type: 'offer', sentences: o.sentences, instead_of: o.instead_of || [] }) } }, o.label));
}

// What zlib has packed
async function inflate(b) {
  const data = new Uint8Array(b.buffer || b, b.byteOffset || 0, b.byteLength);
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
