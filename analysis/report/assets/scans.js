"use strict";
// The page that lists all scans: search, one scan with its viewer, and decisions that the gate reads.
// Text from data enters the page as text only, never as markup.

(() => {
  const SHOWN = 100;
  const { columns, rows, decisions: given, labels } = window.synthsrScans;
  const place = Object.fromEntries(columns.map((name, index) => [name, index]));
  const get = (row, name) => row[place[name]];
  const byId = new Map(rows.map((row) => [get(row, "scan_id"), row]));
  const $ = (id) => document.getElementById(id);
  const memory = `synthsr-cohort decisions ${location.pathname}`;

  // A person's decisions: those of the study's file, and over them those made here ({included: null} takes one back).
  let own = {};
  try {
    own = JSON.parse(localStorage.getItem(memory)) || {};
  } catch (error) {
    own = {};
  }
  const decided = (id) => {
    const decision = own[id] || given[id];
    return decision && decision.included ? decision : null;
  };

  function decide(id, included, reason) {
    const before = given[id] || { included: null, reason: "" };
    if (before.included === included && (included === null || before.reason === reason)) delete own[id];
    else own[id] = { included, reason };
    try {
      localStorage.setItem(memory, JSON.stringify(own));
      tell();
    } catch (error) {
      $("saved").textContent = "This browser keeps nothing: save the decisions before you close the page.";
    }
  }

  function tell() {
    const number = Object.keys(own).length;
    $("saved").textContent = number
      ? `${number} ${number === 1 ? "decision differs" : "decisions differ"} from the study's file.`
      : "";
  }

  // A cell as tables of the pipeline are read: white space is one space, quotes are doubled within quotes.
  const cell = (text) => {
    const flat = text.replace(/\s+/g, " ").trim();
    return flat.includes('"') ? `"${flat.replaceAll('"', '""')}"` : flat;
  };

  function table() {
    const ids = [...new Set([...Object.keys(given), ...Object.keys(own)])].sort();
    const lines = [["scan_id", "included", "reason"].join("\t")];
    for (const id of ids) {
      const decision = decided(id);
      if (!decision) continue;
      if (!decision.reason.trim()) throw id;
      lines.push([id, decision.included, decision.reason].map(cell).join("\t"));
    }
    return lines.join("\n") + "\n";
  }

  function save() {
    let text;
    try {
      text = table();
    } catch (id) {
      if (typeof id !== "string") throw id;
      location.hash = encodeURIComponent(id);
      select(id);
      $("saved").textContent = `${id}: give a reason first.`;
      $("reason").focus();
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    link.download = "exclusions.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    $("saved").textContent = "Saved as exclusions.tsv, where this browser puts downloads.";
  }

  // ---- the list ----

  const known = (value) => (value === null || value === "" ? "–" : value);
  const said = (row) => {
    const decision = decided(get(row, "scan_id"));
    if (!decision) return "";
    return decision.included === "yes" ? "include" : "leave out";
  };
  const HEADS = [
    ["Scan", (row) => get(row, "scan_id"), false],
    ["Contrast", (row) => get(row, "contrast"), false],
    ["Plane", (row) => get(row, "plane"), false],
    ["Spacing (mm)", (row) => get(row, "spacing_mm"), true],
    ["Age (years)", (row) => get(row, "age_years"), true],
    ["Sex", (row) => get(row, "sex"), false],
    ["Score", (row) => get(row, "score"), true],
    ["In the cohort", (row) => (get(row, "included") ? "yes" : "no"), false],
    ["Decision", said, false],
    ["Reason", (row) => (decided(get(row, "scan_id")) || { reason: get(row, "reason") }).reason, false],
  ];
  const texts = new Map(rows.map((row) => [row, row.filter((value) => typeof value === "string").join(" ").toLowerCase()]));
  let found = rows;
  let limit = SHOWN;
  let order = { column: 0, down: false };

  function find() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = $("show").value;
    found = rows.filter((row) => {
      if (show === "decided" && !said(row)) return false;
      if (show === "open" && said(row)) return false;
      if (show === "yes" && !get(row, "included")) return false;
      if (show === "no" && get(row, "included")) return false;
      return words.every((word) => texts.get(row).includes(word));
    });
    const value = HEADS[order.column][1];
    const empty = (x) => x === null || x === "";
    found.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (empty(x) || empty(y)) return empty(x) - empty(y);
      const way = x < y ? -1 : x > y ? 1 : 0;
      return order.down ? -way : way;
    });
    limit = SHOWN;
    draw();
  }

  function draw() {
    const body = document.createElement("tbody");
    for (const row of found.slice(0, limit)) {
      const line = body.insertRow();
      if (get(row, "scan_id") === current) line.setAttribute("aria-current", "true");
      HEADS.forEach(([, value, isNumber], index) => {
        const box = index ? line.insertCell() : line.appendChild(document.createElement("th"));
        if (index) {
          box.textContent = known(value(row));
        } else {
          box.scope = "row";
          const link = box.appendChild(document.createElement("a"));
          link.href = "#" + encodeURIComponent(value(row));
          link.textContent = value(row);
        }
        if (isNumber) box.className = "n";
      });
    }
    $("scans").tBodies[0].replaceWith(body);
    $("count").textContent = `${found.length} of ${rows.length} scans`;
    $("more").hidden = found.length <= limit;
  }

  HEADS.forEach(([name, , isNumber], index) => {
    const head = document.createElement("th");
    head.scope = "col";
    if (isNumber) head.className = "n";
    if (!index) head.setAttribute("aria-sort", "ascending");
    const button = head.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      order = { column: index, down: order.column === index && !order.down };
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      find();
    });
    $("scans").tHead.rows[0].append(head);
  });

  // ---- one scan ----

  let current = null;
  let viewer = null;

  function select(id) {
    const row = byId.get(id);
    current = row ? id : null;
    $("scan").hidden = !row;
    draw();
    if (!row) return;
    const facts = [
      get(row, "contrast"),
      get(row, "plane"),
      get(row, "spacing_mm") === null ? "" : `${get(row, "spacing_mm")} mm between slices`,
      get(row, "age_years") === null ? "" : `${get(row, "age_years")} years`,
      { F: "female", M: "male" }[get(row, "sex")] || "",
      get(row, "included") ? "in the cohort" : `not in the cohort: ${get(row, "reason")}`,
    ];
    $("scan-title").textContent = id;
    $("scan-facts").textContent = facts.filter(Boolean).join("; ");
    $("scan-page").href = `scans/${encodeURIComponent(id)}.html`;
    const seen = get(row, "has_pictures");
    $("no-picture").hidden = seen;
    $("still").hidden = !seen || viewer !== null;
    $("open-viewer").hidden = !seen || viewer !== null;
    $("viewer").hidden = !seen || viewer === null;
    if (seen) {
      $("picture").src = `scans/${encodeURIComponent(id)}.png`;
      $("picture").alt = `${id}: input, synthetic T1 and outlines of the segmentation in three planes`;
    }
    if (seen && viewer) view(id);
    const decision = decided(id);
    $("rating").elements.decision.value = decision ? decision.included : "gate";
    $("reason").value = decision ? decision.reason : "";
    $("gate-said").textContent = get(row, "by_person") ? "" : get(row, "included") ? "(included)" : "(left out)";
  }

  function step(by) {
    const at = found.findIndex((row) => get(row, "scan_id") === current);
    const next = found[(at + by + found.length) % found.length];
    if (next) location.hash = encodeURIComponent(get(next, "scan_id"));
  }

  function rate() {
    const chosen = $("rating").elements.decision.value;
    decide(current, chosen === "gate" ? null : chosen, $("reason").value);
    draw();
  }

  // ---- the viewer ----

  const arriving = new Map();
  window.synthsrVolumes = (id, volumes) => {
    arriving.get(id)?.(volumes);
    arriving.delete(id);
  };

  function run(address) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = () => resolve(script.remove());
      script.onerror = () => reject(new Error(`${decodeURIComponent(address)} is not there`));
      document.head.append(script);
    });
  }

  async function volumesOf(id) {
    let volumes = null;
    arriving.set(id, (found) => (volumes = found));
    await run(`scans/${encodeURIComponent(id)}.js`);
    return volumes;
  }

  async function open() {
    $("open-viewer").hidden = true;
    try {
      await run("assets/niivue.umd.js");
      $("viewer").hidden = false;
      const options = { dragAndDropEnabled: false, logLevel: "error", crosshairColor: [0.9, 0.6, 0, 0.7],
                        isRadiologicalConvention: false, sagittalNoseLeft: false, multiplanarShowRender: 0 };
      const sides = {};
      for (const name of ["input", "synthetic"]) {
        sides[name] = new window.niivue.Niivue(options);
        await sides[name].attachToCanvas($(name));
      }
      sides.input.broadcastTo([sides.synthetic]);
      sides.synthetic.broadcastTo([sides.input]);
      for (const side of Object.values(sides)) side.onLocationChange = (where) => point(where);
      viewer = sides;
      $("still").hidden = true;
      await view(current);
    } catch (error) {
      fault(error);
    }
  }

  function fault(error) {
    $("viewer").hidden = true;
    $("still").hidden = false;
    const reason = error.message.replace(/\.+$/, "");
    $("viewer-fault").textContent = `The viewer does not work here: ${reason}. The picture above does not need it.`;
  }

  let turn = 0;
  async function view(id) {
    const mine = ++turn;
    try {
      const volumes = await volumesOf(id);
      const image = window.niivue.NVImage;
      for (const [name, side] of Object.entries(viewer)) {
        const loaded = [];
        for (const what of [name, "segmentation", "lesion"].filter((what) => volumes[what])) {
          loaded.push(await image.loadFromBase64({
            base64: volumes[what], name: `${what}.nii.gz`, colormap: what === "lesion" ? "red" : "gray",
            cal_min: what === "lesion" ? 0.5 : 0, cal_max: what === "lesion" ? 1 : 255, trustCalMinMax: true,
          }));
          if (what === "segmentation") loaded.at(-1).setColormapLabel(labels);
        }
        if (mine !== turn) return; // another scan was chosen meanwhile
        while (side.volumes.length) side.removeVolume(side.volumes[0]);
        for (const volume of loaded) side.addVolume(volume);
      }
      $("lesion-label").hidden = !volumes.lesion;
      $("viewer-fault").textContent = "";
      show();
      document.body.dataset.viewed = id;
    } catch (error) {
      fault(error);
    }
  }

  function show() {
    for (const side of Object.values(viewer)) {
      side.volumes.forEach((volume, index) => {
        if (volume.name.startsWith("segmentation")) side.setOpacity(index, $("opacity").value / 100);
        if (volume.name.startsWith("lesion")) side.setOpacity(index, $("lesion").checked ? 0.6 : 0);
      });
      side.setSliceType(Number($("planes").value));
    }
  }

  const STEPS = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowDown: [0, -1, 0], ArrowUp: [0, 1, 0],
                  PageDown: [0, 0, -1], PageUp: [0, 0, 1] };

  function move(event) {
    if (!viewer || !STEPS[event.key]) return;
    event.preventDefault();
    viewer[event.target.id].moveCrosshairInVox(...STEPS[event.key]);
  }

  function point(where) {
    const [x, y, z] = [...where.mm].map((value) => Math.round(value));
    const label = where.values.find((value) => value.name.startsWith("segmentation"));
    const name = label ? labels.labels[labels.I.indexOf(Math.round(label.value))] : "";
    $("place").textContent = `${Math.abs(x)} mm ${x < 0 ? "left" : "right"}, ${Math.abs(y)} mm ${y < 0 ? "back" : "front"}, `
      + `${Math.abs(z)} mm ${z < 0 ? "down" : "up"}${name ? `: ${name}` : ""}`;
  }

  // ---- events ----

  $("search").addEventListener("input", find);
  $("show").addEventListener("change", find);
  $("more").addEventListener("click", () => {
    limit += SHOWN;
    draw();
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => {
    location.hash = "";
    $("search").focus();
  });
  $("open-viewer").addEventListener("click", open);
  for (const name of ["input", "synthetic"]) $(name).addEventListener("keydown", move);
  $("planes").addEventListener("change", show);
  $("opacity").addEventListener("input", show);
  $("lesion").addEventListener("change", show);
  $("rating").addEventListener("input", rate);
  $("rating").addEventListener("submit", (event) => event.preventDefault());
  $("save").addEventListener("click", save);
  const fromAddress = () => {
    select(decodeURIComponent(location.hash.slice(1)));
    if (current) $("scan-title").focus();
  };
  window.addEventListener("hashchange", fromAddress);

  find();
  tell();
  if (location.hash.length > 1) fromAddress();
})();
