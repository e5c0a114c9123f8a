// Shows who is signed in, signs out, and deletes the account with all its data.
//
// Firebase deletes the user and signs out; the backend's `onUserDeleted` deletes the user's data. This module removes what
// the browser remembers of them.

import { deleteUser, EmailAuthProvider, reauthenticateWithCredential, signOut, type User } from "firebase/auth";
import { asked, byId, toast } from "./dom.js";
import { auth } from "./firebase.js";
import { inWords, plural } from "./words.js";

const HERE: Record<string, string> = {
  "auth/network-request-failed": "There is no connection, so your account may still be there. Try again.",
  "auth/requires-recent-login": "You signed in a while ago. Enter your password once more, so that nobody else does this in your name.",
  "auth/invalid-credential": "That is not your password.",
  "auth/wrong-password": "That is not your password.",
};
/** Where `localStorage` has the id of a user who is being deleted: the page may be closed before it gets the response. */
const LEAVING = "studio/leaving";
/** Errors that mean that the user does not exist or that the sign-in is no longer valid. */
const SIGNED_OUT = new Set(["auth/user-token-expired", "auth/user-not-found", "auth/invalid-user-token"]);

export class Account {
  private readonly dialog = byId<HTMLDialogElement>("farewell");
  private readonly form = byId<HTMLFormElement>("farewell-form");
  private readonly wrong = byId("farewell-error");
  private readonly password = byId<HTMLInputElement>("farewell-password");
  private isBusy = false;
  /** An attempt got no response: it may have deleted the account all the same. */
  private isUnclear = false;

  /** `forget` removes all that the browser remembers of a user. */
  constructor(private readonly forget: (uid: string) => Promise<void>) {
    byId("account-open").addEventListener("click", () => void this.open());
    byId("farewell-keep").addEventListener("click", () => this.isBusy || this.dialog.close());
    this.dialog.addEventListener("cancel", (event) => this.isBusy && event.preventDefault());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
  }

  /** Show that a user has signed in or out, in this window or another one. */
  show(user: User | null): void {
    const email = user?.email ?? null;
    byId("account-open").hidden = user === null;
    byId("account-who").textContent = email ?? "You are here as a guest. Once you sign out, nobody can come back to what is here.";
    byId("farewell-sign-in").textContent = email === null ? "your guest account" : `your sign-in, ${email}`;
    this.isUnclear = false;
    this.begin();
    const gone = leaving();
    if (gone !== null && gone !== user?.uid) void this.forget(gone).then(() => note(null));
  }

  /** Note the credits left; null if jobs cost nothing. */
  has(credits: number | null): void {
    byId("farewell-credits").hidden = !credits;
    byId("farewell-credits").textContent = credits ? `${plural(credits, "credit")} that you have not spent` : "";
  }

  private async open(): Promise<void> {
    const wish = await asked("account");
    if (wish === "leave") {
      note(null); // the account stays
      await signOut(auth);
    }
    if (wish !== "delete") return;
    this.begin();
    this.dialog.showModal();
  }

  private begin(): void {
    this.form.reset();
    this.wrong.textContent = "";
    this.askForPassword(false);
  }

  private askForPassword(is: boolean): void {
    byId("farewell-again").hidden = !is;
    this.password.required = is;
  }

  private async submit(): Promise<void> {
    const user = auth.currentUser;
    if (this.isBusy || !user) return;
    this.wrong.textContent = "";
    this.busy(true);
    try {
      await this.delete(user);
      await this.forget(user.uid);
      toast("Your account is deleted.");
    } catch (error) {
      this.explain(error, user);
    } finally {
      this.busy(false);
    }
  }

  private async delete(user: User): Promise<void> {
    const { isUnclear } = this;
    try {
      if (this.password.required && user.email !== null) {
        await reauthenticateWithCredential(user, EmailAuthProvider.credential(user.email, this.password.value));
        this.askForPassword(false);
      }
      note(user.uid);
      await deleteUser(user);
    } catch (error) {
      if (codeOf(error) !== "auth/network-request-failed" && !isUnclear) note(null);
      if (!SIGNED_OUT.has(codeOf(error))) throw error;
      await signOut(auth);
      if (!isUnclear) throw error;
    }
  }

  private explain(error: unknown, user: User): void {
    const code = codeOf(error);
    if (SIGNED_OUT.has(code)) return toast(inWords({ code: "auth/user-token-expired" })); // the dialog is already closed
    this.isUnclear ||= code === "auth/network-request-failed";
    this.wrong.textContent = HERE[code] ?? inWords(error);
    if (code === "auth/requires-recent-login" && user.email !== null) this.askForPassword(true);
    if (this.password.required) this.password.select();
  }

  /** Mark the form as busy. Not with `disabled`, which would take the focus away. */
  private busy(is: boolean): void {
    this.isBusy = is;
    const button = byId("farewell-delete");
    button.textContent = is ? "Deleting …" : "Delete for good";
    for (const one of [button, byId("farewell-keep")]) one.setAttribute("aria-disabled", String(is));
  }
}

function note(uid: string | null): void {
  try {
    if (uid === null) localStorage.removeItem(LEAVING);
    else localStorage.setItem(LEAVING, uid);
  } catch {
    // A store that keeps nothing has nothing of the user either.
  }
}

function leaving(): string | null {
  try {
    return localStorage.getItem(LEAVING);
  } catch {
    return null;
  }
}

const codeOf = (error: unknown): string => String((error as { code?: unknown } | null)?.code ?? "");
