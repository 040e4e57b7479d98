// Starts a page that is one file, which holds its modules and data as text. Browsers neither load what is beside a file
// nor start module workers from it, so modules become data URLs, and a worker gets its data in a message.
(async () => {
  const elements = [...document.querySelectorAll("script[data-file]")];
  const contents = new Map(await Promise.all(elements.map(async (element) => [element.dataset.file, await unpack(element)])));
  const addresses = new Map();
  const WORKER = `onmessage = async ({ data: { files, module } }) => {
    const { fetch } = self;
    self.fetch = (address) => {
      const file = files.get(String(address).replace("inline:", ""));
      return file ? Promise.resolve(new Response(file)) : fetch(address);
    };
    try {
      await import(module);
    } catch (error) {
      postMessage({ failed: { code: "error", message: error.message } });
    }
  };`;

  async function unpack({ textContent, dataset: { type } }) {
    const packed = Uint8Array.from(atob(textContent), (letter) => letter.charCodeAt(0));
    const content = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
    return type === "text/javascript" ? content.text() : new Blob([await content.arrayBuffer()], { type });
  }

  /** Return the address of a module, in which the names of others are replaced by theirs, or of a data file. */
  function address(name) {
    if (!addresses.has(name)) addresses.set(name, typeof contents.get(name) === "string" ? moduleAddress(name) : `inline:${name}`);
    return addresses.get(name);
  }

  function moduleAddress(name) {
    let text = contents.get(name);
    for (const used of contents.keys()) {
      if (text.includes(`"./${used}"`)) text = text.replaceAll(`"./${used}"`, () => JSON.stringify(address(used)));
    }
    const bytes = new TextEncoder().encode(text);
    let letters = "";
    for (let start = 0; start < bytes.length; start += 8192) letters += String.fromCharCode(...bytes.subarray(start, start + 8192));
    return `data:text/javascript;base64,${btoa(letters)}`;
  }

  const NativeWorker = Worker;
  globalThis.Worker = class extends NativeWorker {
    constructor(module) {
      super(URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" })));
      const files = new Map([...contents].filter(([, content]) => content instanceof Blob));
      this.postMessage({ files, module: String(module) });
    }
  };
  document.body.dataset.backend = address("local.js");
  await import(address("page.js"));
})();
