// What each front end brings along. The scripts themselves are in one widget that has no view, which a page gets once per kernel;
// a part of them that one Studio has loaded is there for the next.

const LOADED = globalThis.medalsParts || (globalThis.medalsParts = new Map());
const PATIENCE = 15000; // ms: a page that is opened again brings its widgets in any order

async function scripts(model) {
  const id = model.get('script').replace(/^IPY_MODEL_/, ''), start = Date.now();
  for (;;) {
    try { return await model.widget_manager.get_model(id) } catch (e) { if (Date.now() - start > PATIENCE) throw e }
    await new Promise(r => setTimeout(r, 200));
  }
}

function load(script, name) { // a module, and the style of all of them
  const digest = script.get('digest'), key = `${digest} ${name}`, id = `medals-style-${digest}`;
  if (!document.getElementById(id)) document.head.append(Object.assign(document.createElement('style'), { id, textContent: script.get('style') }));
  if (!LOADED.has(key)) LOADED.set(key, import(URL.createObjectURL(new Blob([script.get('code')[name]], { type: 'text/javascript' }))));
  return LOADED.get(key);
}

async function render({ model, el }) {
  try {
    const part = await load(await scripts(model), model.get('part'));
    return part.default.render({ model, el });
  } catch (e) {
    el.textContent = `This part of medals cannot be shown: ${e && e.message || e}. Run its cell again.`;
  }
}

export default { render };
