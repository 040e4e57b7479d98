/** Requests to this server. If it requires a token, the page asks for it once, and keeps it until the tab is closed. */

const TOKEN_KEY = "tellapart-token";
let tokenDialog = null; // a promise while the dialog is open

/** Return the response to a request; throws an Error; it has `status`, `code` and `retryAfter` if the server responded. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
    const response = await send(new URL(path, document.baseURI), { ...options, headers });
    if (response.status !== 401) return checkStatus(response);
    if (token === sessionStorage.getItem(TOKEN_KEY)) sessionStorage.removeItem(TOKEN_KEY);
    tokenDialog ??= askForToken().finally(() => (tokenDialog = null));
    await tokenDialog;
  }
}

async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Error("the server cannot be reached");
  }
}

async function checkStatus(response) {
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const error = new Error(toClause(problem.detail ?? `the server returned status ${response.status}`));
  error.status = response.status;
  error.code = problem.code;
  error.code = problem.code;
  error.retryAfter = Number(response.headers.get("retry-after")) || null;
  throw error;
}

/** Return a sentence as the end of another one: "Cannot classify a.png: the body is empty." */
function toClause(sentence) {
  return sentence.replace(/\.$/, "").replace(/^[A-Z](?=[a-z]* )/, (letter) => letter.toLowerCase());
}

function askForToken() {
  const dialog = document.createElement("dialog");
  dialog.id = "token";
  dialog.innerHTML = `<form method="dialog"><input autocomplete="username" hidden><label>Access token of this server
    <input type="password" required autocomplete="current-password"></label>
    <div class="buttons"><button class="main">Continue</button></div></form>`;
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const token = dialog.querySelector("[type=password]").value.trim();
      if (token) sessionStorage.setItem(TOKEN_KEY, token);
      dialog.remove();
      resolve();
    };
  });
}
