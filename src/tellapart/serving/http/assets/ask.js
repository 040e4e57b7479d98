/** Asks this server, with its token if it wants one: that is asked of the person once, and forgotten with the tab. */

const KEY = "tellapart-token";
let asking = null; // one question to the person at a time

/** Return the response to a request; throws an Error whose message says why there is none. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
    const response = await reached(new URL(path, document.baseURI), { ...options, headers });
    if (response.status !== 401) return checked(response);
    if (token === sessionStorage.getItem(KEY)) sessionStorage.removeItem(KEY);
    asking ??= tokenOfPerson().finally(() => (asking = null));
    await asking;
  }
}

async function reached(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new Error("the server cannot be reached");
  }
}

async function checked(response) {
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  const error = new Error((detail ?? `the server answered ${response.status}`).replace(/\.$/, ""));
  error.status = response.status;
  error.after = Number(response.headers.get("retry-after")) || null;
  throw error;
}

function tokenOfPerson() {
  const dialog = document.createElement("dialog");
  dialog.innerHTML = `<form method="dialog"><input autocomplete="username" hidden><label>This server asks for a token.
    <input type="password" required autocomplete="current-password"></label>
    <div class="buttons"><button class="main">Go on</button></div></form>`;
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const token = dialog.querySelector("[type=password]").value.trim();
      if (token) sessionStorage.setItem(KEY, token);
      dialog.remove();
      resolve();
    };
  });
}
