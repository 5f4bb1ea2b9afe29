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
  const optional = schema.default === null;
  const options = (schema.anyOf || schema.oneOf)?.filter((option) => !optional || option.type !== "null");
  if (options) return [...new Set(options.map((option) => typeName(spec, option)))].join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? typeName(spec, schema.items) : "any"}`;
  return (schema.type || "any") + bounds(schema);
}

// Bounds of the integer's size say nothing to a reader.
function bounds(schema) {
  const small = (value) => (Math.abs(value) < 2 ** 31 - 1 ? value : undefined);
  const low = small(schema.minimum ?? schema.exclusiveMinimum);
  const high = small(schema.maximum ?? schema.exclusiveMaximum);
  if (low === undefined && high === undefined) return "";
  if (high === undefined) return ` ≥ ${low}`;
  return low === undefined ? ` ≤ ${high}` : ` ${low} to ${high}`;
}

// In an answer every field is there; in a request a field has a default or is required.
function fieldTable(spec, schema, asked) {
  const target = resolve(spec, schema);
  const required = new Set(target.required || []);
  const fields = Object.entries(target.properties || {});
  if (asked) fields.sort(([one], [other]) => required.has(other) - required.has(one));
  const rows = fields.map(([name, field]) => {
    const fallback = JSON.stringify(field.default ?? null).replace(/^null$/, "none");
    return element("tr", "", {}, [
      element("td", name),
      element("td", typeName(spec, field)),
      ...(asked ? [element("td", required.has(name) ? "required" : fallback, { class: "default" })] : []),
      element("td", field.description || resolve(spec, field).description || ""),
    ]);
  });
  const titles = asked ? ["Field", "Type", "Default", "Meaning"] : ["Field", "Type", "Meaning"];
  return element("table", "", {}, [
    element("thead", "", {}, [element("tr", "", {}, titles.map((title) => element("th", title)))]),
    element("tbody", "", {}, rows),
  ]);
}

function schemaTables(spec, schema, asked) {
  const target = resolve(spec, schema);
  const objects = (target.anyOf || [schema]).filter((option) => resolve(spec, option).properties);
  const plain = objects.length ? [] : [element("p", typeName(spec, target))];
  return [...plain, ...objects.map((option) => fieldTable(spec, option, asked))];
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(path, body, streams, open) {
  const words = [`curl ${streams ? "-N " : ""}${location.origin}${path}`];
  if (!open) words.push('-H "Authorization: Bearer $OPEN_LLM_API_KEY"');
  if (body !== undefined) {
    words.push("-H 'Content-Type: application/json'", `-d ${shellQuote(JSON.stringify(body))}`);
  }
  return words.join(" \\\n  ");
}

async function send(method, path, body, output) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
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
  if (request) parts.push(element("h3", "Request"), ...schemaTables(spec, request.schema, true));
  for (const [type, media] of Object.entries(operation.responses["200"].content || {})) {
    parts.push(element("h3", `Response, ${type}`));
    parts.push(...schemaTables(spec, media.schema, false));
  }
  const streams = Boolean((operation.responses["200"].content || {})["text/event-stream"]);
  const keys = operation.security || spec.security;
  const open = !keys.length || keys.some((each) => !Object.keys(each).length);
  parts.push(element("h3", "Example"), element("pre", curl(path, request && request.example, streams, open)));
  if (!path.includes("{")) parts.push(tryIt(verb, path, request && request.example));
  return element("section", "", { id: operation.operationId }, parts);
}

function errorSection(spec) {
  return element("section", "", { id: "errors" }, [
    element("h2", "Errors"),
    element("p", spec.components.responses.Error.description),
    ...schemaTables(spec, { $ref: "#/components/schemas/ErrorDetail" }, false),
  ]);
}

// The types that fields of other types have: all but those that a route's own tables show.
function typesSection(spec, shown) {
  const inner = Object.entries(spec.components.schemas).filter(
    ([name, schema]) => schema.properties && !shown.has(name) && !name.startsWith("Error"),
  );
  const tables = inner.flatMap(([name, schema]) => [
    element("h3", name),
    fieldTable(spec, schema, (schema.required || []).length < Object.keys(schema.properties).length),
  ]);
  return element("section", "", { id: "types" }, [element("h2", "Types"), ...tables]);
}

function schemasOf(operation) {
  const media = [operation.requestBody, operation.responses["200"]].flatMap((each) => Object.values(each?.content || {}));
  return media.flatMap(({ schema }) => schema.anyOf || [schema]).map((schema) => (schema.$ref || "").split("/").pop());
}

function render(spec) {
  const routes = document.getElementById("routes");
  const contents = document.getElementById("contents");
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}`;
  document.getElementById("about").textContent = spec.info.description;
  routes.replaceChildren();
  const shown = new Set();
  const aliases = Object.entries(spec.paths).filter(([, item]) => item.$ref);
  for (const [path, item] of Object.entries(spec.paths).filter(([, each]) => !each.$ref)) {
    const pointer = `#/paths/${encodeURI(path.replaceAll("/", "~1"))}`;
    const others = aliases.filter(([, each]) => each.$ref === pointer).map(([other]) => other);
    for (const [method, operation] of Object.entries(item)) {
      routes.append(section(spec, path, method, operation, others));
      contents.append(element("a", path, { href: `#${operation.operationId}` }));
      schemasOf(operation).forEach((name) => shown.add(name));
    }
  }
  routes.append(errorSection(spec), typesSection(spec, shown));
  contents.append(element("a", "Errors", { href: "#errors" }), element("a", "Types", { href: "#types" }));
}

fetch("openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`${response.status}`))))
  .then(render)
  .catch((error) => {
    document.getElementById("routes").textContent = `openapi.json could not be read: ${error.message}`;
  });
