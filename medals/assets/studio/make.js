// An element with a class, attributes, listeners (`onclick`, ...) and what is in it. Goes before slices.js and classes.js, in one module.

function make(tag, className, attributes = {}, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  for (const [k, v] of Object.entries(attributes)) k.startsWith('on') ? e.addEventListener(k.slice(2), v) : e.setAttribute(k, v);
  // JupyterLab looks for this on the element that has the focus: no key pressed here is a command of the notebook
  if (['canvas', 'input', 'button'].includes(tag)) e.setAttribute('data-lm-suppress-shortcuts', 'true');
  e.append(...children);
  return e;
}

