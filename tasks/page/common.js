"use strict";
// What both pages share: elements, and texts in two languages. Each page has its own `expressions` and `portuguese`.

const WHOLE = 10000; // probabilities are integers in ten-thousandths

const $ = (id) => document.getElementById(id);

let language, number, percent;
const t = (text, ...values) =>
  ((language === "pt" && portuguese[text]) || text).replace(/\{(\d)\}/g, (_, index) => values[index]);
const label = (expression) => t(expressions[expression][0].toUpperCase() + expressions[expression].slice(1));

/** An element with properties and children; text is never read as HTML. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Set CSS variables of an element. */
function style(element, variables) {
  for (const [name, value] of Object.entries(variables)) element.style.setProperty(`--${name}`, value);
  return element;
}

/** Give the page's own texts the language that is wanted; numbers so many digits after the point at most. */
function speak(wanted, maximumFractionDigits) {
  language = wanted.toLowerCase().startsWith("pt") ? "pt" : "en";
  number = new Intl.NumberFormat(language, { maximumFractionDigits }).format;
  percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format;
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]"))
    element.textContent = t((element.dataset.t ||= element.textContent));
  for (const element of document.querySelectorAll("[data-t-label]")) element.ariaLabel = t(element.dataset.tLabel);
  for (const button of document.querySelectorAll("[data-language]"))
    button.ariaPressed = String(button.dataset.language === language);
}
