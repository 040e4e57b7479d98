"""Options of Chromium, and JavaScript that tests run in pages."""

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

HOSTILE = "<img src=x onerror=alert(1)> & $x$"  # as the name of a class or a file
IN_PAGE = """
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const text = (bytes) => { let s = ""; for (let i = 0; i < bytes.length; i += 9999)
  s += String.fromCharCode(...bytes.subarray(i, i + 9999)); return btoa(s); };
"""
ADD_FILES = f"""([files, kind]) => {{ {IN_PAGE} const all = new DataTransfer();
for (const [name, data] of files) all.items.add(new File([bytes(data)], name));
const options = {{ bubbles: true, cancelable: true }};
document.body.dispatchEvent(kind === "drop" ? new DragEvent("drop", {{ ...options, dataTransfer: all }})
  : new ClipboardEvent("paste", {{ ...options, clipboardData: all }})); }}"""
