// The index of a board: searches, sorts and shows the runs that stand in the page as data. Names are set as text only.
(function () {
  "use strict";
  var PAGE = 100, CARDS = 8;
  var form = document.getElementById("controls");
  if (!form) return;
  var data = JSON.parse(element("data").textContent);
  var REPORT_FOLDER = /^reports\/[a-z0-9][a-z0-9-]*\/[0-9a-f]{12}-[0-9a-f]{8}$/;

  // One object for each run; reports that no run leads to stand at the end.
  var runs = data.rows.map(function (row) {
    var experiment = data.experiments[row[0]];
    return run({
      experiment: row[0], name: experiment.name, rank: row[1], values: row[2], point: row[3], seeds: row[4],
      commit: row[5], date: row[6], verdict: row[7], gate: row[8], cost: row[9], report: row[10], key: row[11],
      more: row[12], marks: row[13]
    });
  }).concat(data.reports.map(function (row) {
    return run({
      experiment: row[0], name: row[1], rank: 0, values: [], point: "", seeds: 0, commit: row[2], date: "",
      verdict: row[3], gate: row[4], cost: null, report: row[5], key: "", more: "", marks: "report only"
    });
  }));
  var found = [], shown = 0, columns = [], sorting = null, allCards = false;

  function element(id) { return document.getElementById(id); }

  function run(one) {
    one.text = [one.name, one.point, one.commit, one.date, one.verdict, one.gate, one.key, one.more, one.marks]
      .join(" ").toLowerCase();
    return one;
  }

  function chosen() {
    var value = element("experiment").value;
    return value === "" ? null : Number(value);
  }

  // A column takes a value from a run; what is null or empty is not shown and sorts last.
  function wantedColumns() {
    var only = chosen();
    var list = only === null ? [
      {title: "experiment", of: function (one) { return one.name; }},
      {title: "rank", numeric: true, of: function (one) { return one.rank || null; }},
      {title: "metric", of: function (one) {
        return one.values.length ? data.experiments[one.experiment].metrics[0] : null; }},
      {title: "value", numeric: true, show: number, of: function (one) { return one.values[0]; }}
    ] : [
      {title: "rank", numeric: true, of: function (one) { return one.rank || null; }}
    ].concat(data.experiments[only].metrics.map(function (metric, index) {
      return {title: metric, numeric: true, show: number, of: function (one) { return one.values[index]; }};
    }));
    return list.concat([
      {title: "parameters", wrap: true, marks: true, of: function (one) { return one.point; }},
      {title: "seeds", numeric: true, of: function (one) { return one.seeds || null; }},
      {title: "verdict", judged: true, of: function (one) { return one.verdict; }},
      {title: "gate", judged: true, of: function (one) { return one.gate; }},
      {title: "cost", numeric: true, of: function (one) { return one.cost || null; },
        show: function (usd) { return usd.toFixed(2) + " USD"; }},
      {title: "date", of: function (one) { return one.date; }},
      {title: "commit", link: true, of: function (one) { return one.commit; }}
    ]).filter(function (column) {
      return found.some(function (one) { return !absent(column.of(one)) || (column.marks && one.marks); });
    });
  }

  function absent(value) { return value === null || value === undefined || value === ""; }

  function number(value) { return String(Number(value.toPrecision(5))); }

  function shownText(column, one) {
    var value = column.of(one);
    return absent(value) ? "" : column.show ? column.show(value) : String(value);
  }

  function order(of, down) {
    return function (one, other) {
      var a = of(one), b = of(other);
      if (absent(a) || absent(b)) return absent(a) - absent(b);
      var sign = typeof a === "number" && typeof b === "number" ? a - b :
        String(a).localeCompare(String(b), undefined, {numeric: true});
      return down ? -sign : sign;
    };
  }

  function search() {
    var words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    var only = chosen(), show = element("show").value;
    found = runs.filter(function (one) {
      return (only === null || one.experiment === only) &&
        (show !== "fail" || one.gate === "fail") &&
        (show !== "report" || one.report) &&
        (show !== "rerun" || one.marks.indexOf("rerun") >= 0) &&
        words.every(function (word) { return one.text.indexOf(word) >= 0; });
    });
    columns = wantedColumns();
    var by = sorting && columns.filter(function (column) { return column.title === sorting.title; })[0];
    if (by) found.sort(order(by.of, sorting.down));
    else if (element("order").value === "rank") found.sort(order(function (one) { return one.rank || null; }, false));
    var hit = {};
    found.forEach(function (one) { hit[one.experiment] = true; });
    var cards = Array.from(document.querySelectorAll(".card"));
    var fitting = cards.filter(function (card) { return hit[card.dataset.e]; });
    cards.forEach(function (card) { card.hidden = true; });
    fitting.slice(0, allCards ? fitting.length : CARDS).forEach(function (card) { card.hidden = false; });
    element("all").hidden = allCards || fitting.length <= CARDS;
    element("all").textContent = "Show all " + fitting.length + " experiments";
    begin();
    keep();
  }

  function begin() {
    var head = element("runs").tHead.rows[0];
    head.textContent = element("runs").tBodies[0].textContent = "";
    columns.forEach(function (column) {
      var cell = head.appendChild(document.createElement("th")), button = document.createElement("button");
      cell.scope = "col";
      if (column.numeric) cell.className = "n";
      if (sorting && sorting.title === column.title)
        cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      button.type = "button";
      button.textContent = column.title;
      cell.appendChild(button);
    });
    shown = 0;
    showMore();
  }

  function showMore() {
    var part = document.createDocumentFragment();
    found.slice(shown, shown + PAGE).forEach(function (one) {
      var row = part.appendChild(document.createElement("tr"));
      columns.forEach(function (column, index) { row.appendChild(cell(column, one, index === 0)); });
    });
    element("runs").tBodies[0].appendChild(part);
    shown = Math.min(found.length, shown + PAGE);
    element("runs").hidden = found.length === 0;
    element("more").hidden = shown >= found.length;
    element("more").textContent = "Show " + Math.min(PAGE, found.length - shown) + " more";
    element("count").textContent = found.length === 0 ? "nothing fits" :
      found.length + (found.length === 1 ? " run" : " runs") +
      (shown < found.length ? ", the first " + shown + " shown" : "");
  }

  function cell(column, one, first) {
    var made = document.createElement(first ? "th" : "td"), text = shownText(column, one), holder = made;
    if (first) made.scope = "row";
    else made.dataset.h = column.title;
    if (column.numeric) made.className = "n";
    if (column.wrap) made.className = "wrap";
    if (column.judged) made.className = {better: "good", worse: "bad", fail: "fail"}[text] || "quiet";
    if (column.link && REPORT_FOLDER.test(one.report)) {
      holder = made.appendChild(document.createElement("a"));
      holder.href = one.report + "/index.html";
      holder.setAttribute("aria-label", "report of " + one.name + " at " + text);
    }
    if (column.link) holder = holder.appendChild(document.createElement("code"));
    holder.textContent = text;
    if (column.marks && one.marks) {
      var tag = made.appendChild(document.createElement("span"));
      tag.className = "tag";
      tag.textContent = one.marks;
    }
    return made;
  }

  // The question stands in the address, so that it can be passed on.
  function keep() {
    var asked = new URLSearchParams(), only = chosen();
    if (element("search").value) asked.set("q", element("search").value);
    if (only !== null) asked.set("experiment", data.experiments[only].name);
    if (element("show").value) asked.set("show", element("show").value);
    if (element("order").value !== "date") asked.set("order", element("order").value);
    try {
      history.replaceState(null, "", "#" + asked);
    } catch (error) { /* not allowed everywhere for a file */ }
  }

  function restore() {
    var asked = new URLSearchParams(location.hash.slice(1));
    var only = data.experiments.map(function (one) { return one.name; }).indexOf(asked.get("experiment"));
    element("search").value = asked.get("q") || "";
    element("experiment").value = only < 0 ? "" : String(only);
    ["show", "order"].forEach(function (id) {
      var options = Array.from(element(id).options).map(function (option) { return option.value; });
      element(id).value = options.indexOf(asked.get(id)) < 0 ? options[0] : asked.get(id);
    });
  }

  function searchAnew() {
    sorting = null;
    search();
  }

  data.experiments.map(function (one, index) { return {name: one.name, index: index}; })
    .sort(function (one, other) { return one.name.localeCompare(other.name); })
    .forEach(function (one) { element("experiment").add(new Option(one.name, String(one.index))); });
  form.hidden = false;
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  var waiting = 0;
  element("search").addEventListener("input", function () {
    clearTimeout(waiting);
    waiting = setTimeout(search, 60);
  });
  ["experiment", "show", "order"].forEach(function (id) { element(id).addEventListener("change", searchAnew); });
  element("clear").addEventListener("click", function () {
    form.reset();
    searchAnew();
  });
  element("more").addEventListener("click", showMore);
  element("all").addEventListener("click", function () {
    allCards = true;
    search();
    element("cards-title").focus();
  });
  element("runs").tHead.addEventListener("click", function (event) {
    var button = event.target.closest("button");
    if (!button) return;
    var title = button.textContent;
    sorting = {title: title, down: !!sorting && sorting.title === title && !sorting.down};
    search();
    Array.from(element("runs").tHead.querySelectorAll("button"))
      .filter(function (one) { return one.textContent === title; })[0].focus();
  });
  document.addEventListener("click", function (event) {
    var button = event.target.closest(".choose");
    if (!button) return;
    element("experiment").value = button.dataset.e;
    element("order").value = "rank";
    searchAnew();
    element("runs-title").scrollIntoView();
    element("runs-title").focus({preventScroll: true});
  });
  window.addEventListener("hashchange", function () {
    if (document.getElementById(location.hash.slice(1))) return; // a place on the page, not a question
    restore();
    searchAnew();
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
  });
  restore();
  search();
})();
