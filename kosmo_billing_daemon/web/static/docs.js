// Shows openapi.json of this server. Text is only ever set as text, so a description cannot act.

const PREFIX = location.pathname.replace(/\/docs$/, "");
const METHODS = ["get", "post", "put", "delete"];
const identity = { base: location.origin, user: "11111111-1111-1111-1111-111111111111", token: "" };
const redraws = [];

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// The few marks that descriptions use: paragraphs, lists, `code` and **strong**.
function prose(text = "") {
  const inline = (line) =>
    line.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
      if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
      if (part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
      return part;
    });
  return text.split(/\n\n+/).map((block) => {
    const lines = block.split("\n");
    if (lines.every((line) => line.startsWith("- ")))
      return make("ul", {}, ...lines.map((line) => make("li", {}, ...inline(line.slice(2)))));
    return make("p", {}, ...inline(lines.join(" ")));
  });
}

const named = (api, schema) => {
  const name = schema?.$ref?.split("/").pop();
  return name ? { name, schema: api.components.schemas[name] } : { name: null, schema };
};

function kind(schema) {
  if (!schema) return "anything";
  if (schema.$ref) return make("a", { href: `#schema-${schema.$ref.split("/").pop()}` }, schema.$ref.split("/").pop());
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return make("span", {}, ...several.flatMap((each, at) => (at ? [" or ", kind(each)] : [kind(each)])));
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return make("span", {}, "list of ", kind(schema.items));
  if (schema.type === "object" && schema.additionalProperties?.$ref)
    return make("span", {}, "map of ", kind(schema.additionalProperties));
  return schema.format ? `${schema.type} (${schema.format})` : schema.type;
}

function limits(schema) {
  const told = [];
  if (schema.default !== undefined && schema.default !== null) told.push(`default ${schema.default}`);
  if (schema.minimum !== undefined) told.push(`from ${schema.minimum}`);
  if (schema.maximum !== undefined) told.push(`to ${schema.maximum}`);
  if (schema.maxLength !== undefined) told.push(`at most ${schema.maxLength} characters`);
  if (schema.pattern) told.push(`as ${schema.pattern}`);
  return told.join(", ");
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function properties(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    make("tr", {},
      make("td", {}, make("code", {}, name), schema.required?.includes(name) ? "" : " (optional)"),
      make("td", {}, kind(property)),
      make("td", {}, ...prose(property.description), make("span", { className: "soft" }, limits(property)))));
  return rows.length ? table(["Field", "Type", ""], rows) : make("p", {}, kind(schema));
}

function snippet(text) {
  const code = make("code");
  const copy = make("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const draw = () => (code.textContent = typeof text === "function" ? text() : text);
  draw();
  redraws.push(draw);
  return make("div", { className: "snippet" }, make("pre", { tabIndex: 0 }, code), navigator.clipboard ? copy : null);
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

function curl(path, method, operation) {
  const given = operation.parameters ?? [];
  let url = path;
  for (const { name, in: place, example } of given)
    if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(example ?? name).replaceAll("%21", "!"));
  const query = given.filter((one) => one.in === "query" && one.example !== undefined)
    .map((one) => `${one.name}=${encodeURIComponent(one.example)}`);
  const parts = ["curl -i"];
  if (operation.responses["200"]?.content?.["text/event-stream"]) parts[0] += " -N";
  if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  if (operation.security?.length)
    parts.push(`-H ${quoted(identity.token ? `Authorization: Bearer ${identity.token}` : `X-User-ID: ${identity.user}`)}`);
  for (const one of given)
    if (one.in === "header" && one.example !== undefined) parts.push(`-H ${quoted(`${one.name}: ${one.example}`)}`);
  const body = operation.requestBody?.content?.["application/json"]?.example;
  if (body) parts.push(`-d ${quoted(JSON.stringify(body))}`);
  parts.push(quoted(identity.base + url + (query.length ? `?${query.join("&")}` : "")));
  return parts.join(" \\\n  ");
}

const example = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function answer(status, response) {
  const [first, ...rest] = prose(response.description);
  const contents = Object.entries(response.content ?? {}).flatMap(([type, content]) => [
    make("p", { className: "soft" }, type, ": ", kind(content.schema)),
    content.example === undefined ? null : snippet(example(content.example)),
  ]);
  const headers = Object.entries(response.headers ?? {}).map(([name, header]) =>
    make("p", {}, make("code", {}, name), ` ${header.description}`));
  const summary = make("summary", {}, make("strong", {}, status), " ", ...first.childNodes);
  return make("details", { open: status.startsWith("2") }, summary, ...rest, ...headers, ...contents);
}

function operation(path, method, described) {
  const body = described.requestBody?.content?.["application/json"];
  const rows = (described.parameters ?? []).map((one) =>
    make("tr", {},
      make("td", {}, make("code", {}, one.name), one.required ? "" : " (optional)"),
      make("td", {}, one.in),
      make("td", {}, kind(one.schema), " ", make("span", { className: "soft" }, limits(one.schema))),
      make("td", {}, ...prose(one.description))));
  return make("section", { id: described.operationId },
    make("h2", {}, described.summary),
    make("p", { className: "route" }, make("span", { className: `method ${method}` }, method), " ", path),
    ...prose(described.description),
    described.security?.length ? null : make("p", { className: "soft" }, "No identity needed."),
    make("h3", {}, "Try it"), snippet(() => curl(path, method, described)),
    rows.length ? make("h3", {}, "Parameters") : null, rows.length ? table(["Name", "In", "Type", ""], rows) : null,
    body ? make("h3", {}, "Body") : null, body ? make("p", {}, kind(body.schema)) : null,
    make("h3", {}, "Answers"),
    ...Object.entries(described.responses).map(([status, response]) => answer(status, response)));
}

function field(label, name) {
  const input = make("input", { value: identity[name], autocomplete: "off", spellcheck: false });
  input.addEventListener("input", () => {
    identity[name] = input.value.trim();
    redraws.forEach((redraw) => redraw());
  });
  return make("label", {}, label, input);
}

function show(api) {
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");
  main.replaceChildren(
    make("h1", {}, api.info.title, " ", make("span", { className: "soft" }, api.info.version)),
    ...prose(api.info.description),
    make("p", {}, "The documents: ", make("a", { href: "openapi.json" }, "OpenAPI 3.1"), " and, for gateways and bridges, ",
      make("a", { href: "asyncapi.json" }, "AsyncAPI 3.0"), "."),
    make("div", { className: "fields" }, field("Server", "base"), field("User (X-User-ID)", "user"),
      field("Bearer token, if there is one", "token")));
  for (const { name } of api.tags) {
    const list = make("ul");
    contents.append(make("h2", {}, name), list);
    for (const [path, methods] of Object.entries(api.paths))
      for (const method of METHODS) {
        const described = methods[method];
        if (!described?.tags.includes(name)) continue;
        const route = path.startsWith(PREFIX) ? path.slice(PREFIX.length) : path;
        list.append(make("li", {}, make("a", { href: `#${described.operationId}`, title: described.summary },
          make("span", { className: `method ${method}` }, method), " ", route)));
        main.append(operation(path, method, described));
      }
  }
  const list = make("ul");
  contents.append(make("h2", {}, "Bodies"), list);
  for (const name of Object.keys(api.components.schemas)) {
    const { schema } = named(api, { $ref: `#/components/schemas/${name}` });
    list.append(make("li", {}, make("a", { href: `#schema-${name}` }, name)));
    main.append(make("section", { id: `schema-${name}` }, make("h2", {}, name), ...prose(schema.description), properties(schema)));
  }
  menu.addEventListener("click", (event) => { if (event.target.closest("a") && !wide.matches) menu.open = false; });
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

// Beside the text where there is room for both; on a phone folded away until it is wanted.
const menu = document.getElementById("menu");
const wide = matchMedia("(min-width: 48rem)");
const unfold = () => (menu.open = wide.matches);
wide.addEventListener("change", unfold);
unfold();

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`the server answers ${response.status}`);
  show(await response.json());
} catch (error) {
  document.getElementById("state").textContent = `openapi.json cannot be read: ${error.message}`;
}
