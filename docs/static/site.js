/* What the theme leaves out for keyboards and screen readers. */
function scrollable() {
  for (const part of document.querySelectorAll("pre, table, .table-wrapper, .output, .sig"))
    if (part.scrollWidth > part.clientWidth + 1) part.tabIndex = 0;
}
addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.ariaLevel = "2";
  for (const part of document.querySelectorAll(".sig dl, .sig dd")) {  // lists without terms
    const plain = document.createElement("div");
    plain.className = part.localName === "dd" ? "parameter" : "";
    plain.append(...part.childNodes);
    part.replaceWith(plain);
  }
  const names = { ".sidebar-drawer": "All pages", ".toc-drawer": "On this page" };
  for (const [part, name] of Object.entries(names))
    document.querySelector(part)?.setAttribute("aria-label", name);
  scrollable();
});
addEventListener("load", scrollable);
addEventListener("resize", scrollable);
