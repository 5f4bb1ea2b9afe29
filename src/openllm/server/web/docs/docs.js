// Renders openapi.json. Everything from the document is set as text, never as HTML.
"use strict";

function element(tag, text, attributes = {}, children = []) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function resolve(spec, schema) {
  while (schema && schema.$ref) {
    schema = decodeURI(schema.$ref).slice(2).split("/").reduce((node, key) => node[unescapeKey(key)], spec);
  }
  return schema || {};
}

function unescapeKey(key) {
  return key.replaceAll("~1", "/").replaceAll("~0", "~");
}

function typeName(spec, schema) {
  if (schema.$ref) {
    const target = resolve(spec, schema);
    return target.properties ? schema.$ref.split("/").pop() : typeName(spec, target);
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const options = schema.anyOf || schema.oneOf;
  if (options) return [...new Set(options.map((option) => typeName(spec, option)))].join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? typeName(spec, schema.items) : "any"}`;
  return (schema.type || "any") + bounds(schema);
}

function bounds(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (low === undefined && high === undefined) return "";
  if (high === undefined) return ` ≥ ${low}`;
  return low === undefined ? ` ≤ ${high}` : ` ${low} to ${high}`;
}

function fieldTable(spec, schema) {
  const target = resolve(spec, schema);
  const required = new Set(target.required || []);
  const rows = Object.entries(target.properties || {}).map(([name, field]) => {
    const fallback = field.default === undefined || field.default === null ? "" : JSON.stringify(field.default);
    return element("tr", "", {}, [
      element("td", name),
      element("td", typeName(spec, field)),
      element("td", required.has(name) ? "required" : fallback),
      element("td", field.description || resolve(spec, field).description || ""),
    ]);
  });
  const head = ["Field", "Type", "Default", "Meaning"].map((title) => element("th", title));
  return element("table", "", {}, [
    element("thead", "", {}, [element("tr", "", {}, head)]),
    element("tbody", "", {}, rows),
  ]);
}

function schemaTables(spec, schema) {
  const target = resolve(spec, schema);
  const objects = (target.anyOf || [schema]).filter((option) => resolve(spec, option).properties);
  const plain = objects.length ? [] : [element("p", typeName(spec, target))];
  return [...plain, ...objects.map((option) => fieldTable(spec, option))];
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(method, path, body, streams) {
  const words = [`curl ${streams ? "-N " : ""}${location.origin}${path}`];
  if (body !== undefined) {
    words.push("-H 'Content-Type: application/json'", `-d ${shellQuote(JSON.stringify(body))}`);
  }
  return words.join(" \\\n  ");
}

async function send(method, path, body, output) {
  const key = document.getElementById("key").value;
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  output.hidden = false;
  output.textContent = "…";
  try {
    const response = await fetch(path.slice(1), { method, headers, body });
    output.textContent = `${response.status} ${response.statusText}\n\n`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      output.append(part.value);
    }
  } catch (error) {
    output.textContent = String(error);
  }
}

function tryIt(method, path, example) {
  const output = element("pre", "", { "aria-live": "polite" });
  output.hidden = true;
  const button = element("button", "Send", { type: "button" });
  const parts = [element("summary", "Try it"), button, output];
  let body = () => undefined;
  if (example !== undefined) {
    const area = element("textarea", JSON.stringify(example, null, 2), { "aria-label": `Body of ${method} ${path}`, spellcheck: "false" });
    parts.splice(1, 0, area);
    body = () => area.value;
  }
  button.addEventListener("click", () => send(method, path, body(), output));
  return element("details", "", {}, parts);
}

function section(spec, path, method, operation, aliases) {
  const verb = method.toUpperCase();
  const parts = [
    element("h2", "", {}, [element("span", verb, { class: "method" }), element("span", path)]),
    element("p", operation.description || operation.summary || ""),
  ];
  if (aliases.length) parts.push(element("p", `Also at ${aliases.join(", ")}.`, { class: "soft" }));
  const request = operation.requestBody && operation.requestBody.content["application/json"];
  if (request) parts.push(element("h3", "Request"), ...schemaTables(spec, request.schema));
  for (const [type, media] of Object.entries(operation.responses["200"].content || {})) {
    parts.push(element("h3", `Response, ${type}`));
    if (media.schema) parts.push(...schemaTables(spec, media.schema));
    if (typeof media.example === "string") parts.push(element("pre", media.example));
  }
  const streams = Boolean((operation.responses["200"].content || {})["text/event-stream"]);
  parts.push(element("h3", "Example"), element("pre", curl(verb, path, request && request.example, streams)));
  if (!path.includes("{")) parts.push(tryIt(verb, path, request && request.example));
  return element("section", "", { id: operation.operationId }, parts);
}

function errorSection(spec) {
  return element("section", "", { id: "errors" }, [
    element("h2", "Errors"),
    element("p", spec.components.responses.Error.description),
    ...schemaTables(spec, { $ref: "#/components/schemas/ErrorDetail" }),
  ]);
}

function render(spec) {
  const routes = document.getElementById("routes");
  const contents = document.getElementById("contents");
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}`;
  document.getElementById("about").textContent = spec.info.description;
  routes.replaceChildren();
  const aliases = Object.entries(spec.paths).filter(([, item]) => item.$ref);
  for (const [path, item] of Object.entries(spec.paths).filter(([, each]) => !each.$ref)) {
    const pointer = `#/paths/${encodeURI(path.replaceAll("/", "~1"))}`;
    const others = aliases.filter(([, each]) => each.$ref === pointer).map(([other]) => other);
    for (const [method, operation] of Object.entries(item)) {
      routes.append(section(spec, path, method, operation, others));
      contents.append(element("a", path, { href: `#${operation.operationId}` }));
    }
  }
  routes.append(errorSection(spec));
  contents.append(element("a", "Errors", { href: "#errors" }));
}

fetch("openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`${response.status}`))))
  .then(render)
  .catch((error) => {
    document.getElementById("routes").textContent = `openapi.json could not be read: ${error.message}`;
  });
