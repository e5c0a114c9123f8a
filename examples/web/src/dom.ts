// The few DOM helpers that a page without a framework needs.

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

/** An element that index.html is known to contain. */
export function byId<Type extends HTMLElement = HTMLElement>(id: string): Type {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found as Type;
}

/** `el("button", { class: "quiet", onclick: leave }, "Sign out")` */
export function el<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value as EventListener);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return made;
}

/** One of the icons at the top of index.html. Decorative: the text beside it, or a label, says the same. */
export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Announce a text to screen readers only. */
export function say(text: string): void {
  byId("said").textContent = text;
}

let hide: number | undefined;

/** Show a text at the lower edge, for as long as it takes to read. */
export function toast(text: string): void {
  const place = byId("toast");
  byId("toast-text").textContent = text;
  // Reopened so that it is above an open dialog, which is in the browser's top layer.
  if (place.matches(":popover-open")) place.hidePopover();
  place.showPopover();
  clearTimeout(hide);
  hide = window.setTimeout(() => place.hidePopover(), 4_000 + 60 * text.length);
}

/** Open a dialog and return how it was closed. The focus then goes back to where it was. */
export function asked(id: string): Promise<string> {
  const dialog = byId<HTMLDialogElement>(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
