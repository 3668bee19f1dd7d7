// The token goes to the server once, for a cookie that scripts cannot read.

import { api } from "/assets/api.js";
import { el, fill } from "/assets/dom.js";

let open = false;

export function signIn(root, then) {
  if (open) return;
  open = true;
  const token = el("input", {
    id: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false",
  });
  const said = el("div", {});
  const form = el("form", { class: "card signin" },
    el("h1", {}, "Sign in"),
    el("input", { type: "text", autocomplete: "username", value: "offloop", hidden: true }),
    el("label", { for: "token" }, "Token of this server"),
    token,
    el("button", { type: "submit", class: "primary" }, "Sign in"),
    said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await api.post("/session", { token: token.value });
      open = false;
      fill(root);
      await then();
    } catch (error) {
      api.show(said, error);
      token.select();
    }
  });
  fill(root, form);
  token.focus();
}
