"use strict";
for (const place of document.querySelectorAll(".chart")) {
  const chart = JSON.parse(document.getElementById(place.id + "-data").textContent);
  const config = JSON.parse(document.getElementById("chart-config").textContent);
  Plotly.newPlot(place, chart.data, chart.layout, config);
}
{
  const sheets = [...document.querySelectorAll("details.sheet, details.more")];
  let closed = [];
  const open = () => { closed = sheets.filter((sheet) => !sheet.open); closed.forEach((sheet) => { sheet.open = true; }); };
  const restore = () => { closed.forEach((sheet) => { sheet.open = false; }); closed = []; };
  window.addEventListener("beforeprint", open);
  window.addEventListener("afterprint", restore);
  const follow = () => { const sheet = sheets.find((s) => "#" + s.id === location.hash); if (sheet) { sheet.open = true; } };
  window.addEventListener("hashchange", follow);
  follow();
}
