/** Pictures from the camera: by the phone's own camera app, or else through a viewfinder in the page. */

const button = document.getElementById("camera");
const capture = document.getElementById("capture");
const viewfinder = document.getElementById("viewfinder");
const video = viewfinder.querySelector("video");

/** Offer the camera where there is one; take: called with each picture. say: shows a sentence. */
export function offerCamera(take, say) {
  const phone = matchMedia("(pointer: coarse)").matches;
  button.hidden = !phone && !navigator.mediaDevices;
  button.onclick = () => (phone ? capture.click() : open(say));
  capture.onchange = () => {
    take([...capture.files]);
    capture.value = "";
  };
  document.getElementById("close").onclick = () => viewfinder.close();
  document.getElementById("shoot").onclick = async () => {
    const picture = await shot();
    viewfinder.close();
    take([picture]);
  };
  viewfinder.onclose = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    button.focus();
  };
}

async function open(say) {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
    });
    viewfinder.showModal();
  } catch {
    say("There is no camera, or the browser was not allowed to use it.");
  }
}

/** Return what the camera sees, without loss. */
async function shot() {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/png" })], "camera.png", { type: "image/png" });
}
