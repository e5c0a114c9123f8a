// Assembles the page and shows the parts that a signed-in user may see.

import { onAuthStateChanged } from "firebase/auth";
import { Account } from "./account.js";
import { Compose } from "./compose.js";
import { showCredits } from "./credits.js";
import { byId, toast } from "./dom.js";
import { auth } from "./firebase.js";
import { Gallery } from "./gallery.js";
import { Now } from "./now.js";
import { Price } from "./price.js";
import { setUpSignIn } from "./signin.js";
import { Viewer } from "./viewer.js";
import { inWords } from "./words.js";
import "./style.css";

const viewer = new Viewer({
  changed: (item) => gallery.change(item),
  removed: (fileUid) => {
    now.remove(fileUid);
    gallery.remove(fileUid);
  },
  offers: (task) => compose.offers(task),
  use: (...what) => void compose.from(...what),
});
const gallery = new Gallery((item) => viewer.open(item));
const now = new Now(
  (fileUid) => void gallery.refresh(fileUid),
  (fileUid) => void openResult(fileUid),
  (wanted) => compose.again(wanted),
);
const price = new Price();
const compose = new Compose(price, (wanted) => now.begin(wanted));
const account = new Account((uid) => now.forget(uid));
let stopCredits = (): void => undefined;

/** Open the result of a job that has just ended. */
async function openResult(fileUid: string): Promise<void> {
  const isKnown = gallery.find(fileUid) !== undefined || (await gallery.refresh(fileUid));
  const item = gallery.find(fileUid);
  if (item) viewer.open(item);
  else if (isKnown) toast(inWords({ code: "not-found" }));
}

setUpSignIn();
byId("compose-retry").addEventListener("click", () => {
  byId("compose-retry").hidden = true;
  void compose.begin();
});
byId("toast-close").addEventListener("click", () => byId("toast").hidePopover());

onAuthStateChanged(auth, (user) => {
  stopCredits();
  now.leave();
  gallery.leave();
  compose.leave();
  document.querySelectorAll<HTMLDialogElement>("dialog[open]").forEach((dialog) => dialog.close());
  viewer.leave();
  account.show(user);
  byId("signin").hidden = user !== null;
  byId("studio").hidden = user === null;
  byId("starting").hidden = true;
  if (!user) {
    byId("email").focus();
    return;
  }
  stopCredits = showCredits(user.uid, (credits) => {
    price.has(credits);
    account.has(credits);
  });
  void compose.begin();
  void gallery.begin();
  now.resume().catch((error: unknown) => toast(inWords(error)));
});
