// The table narrows to what is asked for; without this script all of it is there.
{
  const form = document.querySelector(".filters"), rows = [...document.querySelectorAll(".methods tbody tr")];
  const cells = [...document.querySelectorAll("[data-place]")].filter((c) => c.tagName === "A");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  let place = "";
  const has = (list, one) => list.split("|").includes(one);
  const tell = () => {
    const asked = Object.fromEntries(new FormData(form));
    const words = asked.words.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, i) => {
      const d = row.dataset;
      const fits = words.every((w) => texts[i].includes(w)) && (!asked.form || d.form === asked.form) &&
        (!asked.scope || d.scope === asked.scope) && (!asked.needs || has(d.needs, asked.needs)) &&
        (!asked.place || has(d.places, asked.place)) && (!place || d.place === place);
      row.hidden = !fits;
      count += fits;
    });
    form.querySelector(".found").textContent =
      `${count} of ${rows.length} methods` + (place ? `, ${place.split("/").join(", ")}` : "");
    for (const c of cells) { c.dataset.place === place ? c.setAttribute("aria-current", "true") : c.removeAttribute("aria-current"); }
  };
  form.hidden = false;
  form.addEventListener("input", tell);
  form.addEventListener("submit", (e) => e.preventDefault());
  form.addEventListener("reset", () => { place = ""; setTimeout(tell); });
  for (const c of cells) { c.addEventListener("click", () => { place = place === c.dataset.place ? "" : c.dataset.place; tell(); }); }
  // A method that a tree leads to is shown, whatever was asked for.
  addEventListener("hashchange", () => {
    const row = rows.find((r) => "#" + r.id === location.hash);
    if (row && row.hidden) { row.hidden = false; row.scrollIntoView(); }
  });
  tell();
}
