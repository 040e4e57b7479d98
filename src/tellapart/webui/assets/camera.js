/** Images from the camera, with the phone's camera app or a viewfinder in the page. */

const button = document.getElementById("camera");
const capture = document.getElementById("capture");
const viewfinder = document.getElementById("viewfinder");
const video = viewfinder.querySelector("video");

/** Show the camera button if there is a camera. onImages: called with an array of files. onMessage: shows a message. */
export function enableCamera(onImages, onMessage) {
  const phone = matchMedia("(pointer: coarse)").matches;
  button.hidden = !phone && !navigator.mediaDevices;
  button.onclick = () => (phone ? capture.click() : openViewfinder(onMessage));
  capture.onchange = () => {
    onImages([...capture.files]);
    capture.value = "";
  };
  document.getElementById("close").onclick = () => viewfinder.close();
  document.getElementById("shoot").onclick = async () => {
    const image = await grabFrame();
    viewfinder.close();
    onImages([image]);
  };
  viewfinder.onclose = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    button.focus();
  };
}

async function openViewfinder(onMessage) {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
    });
    viewfinder.showModal();
  } catch {
    onMessage("The camera is not available: there is none, or the browser has no permission to use it.");
  }
}

/** Return the current frame of the camera as a PNG file. */
async function grabFrame() {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/png" })], "camera.png", { type: "image/png" });
}
