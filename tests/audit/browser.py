"""Opens a page in headless Chromium (QtWebEngine, which pip installs) and runs lines of JavaScript in it, one after another.

It is a process of its own, because a browser that ends badly shall not take the tests with it:
``python browser.py PAGE LINES``, where LINES is a JSON list. What it prints is JSON: the value of each line, what the page asked
the network for, what its console said, and the dialogues that it opened.
"""

import json
import os
import sys
from pathlib import Path

PATIENCE_MS = 60_000
PAUSE_MS = 60  # for what a line sets off: scroll events come with the next frame


def main(page_file, lines):
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu"  # CI runs as root, without a display
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    told = {"values": [], "requests": [], "console": [], "dialogues": []}

    class Requests(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info):
            told["requests"].append(info.requestUrl().toString())

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            told["console"].append(f"{line}: {message}")

        def javaScriptAlert(self, origin, message):
            told["dialogues"].append(message)

    app = QApplication(["browser"])
    profile, requests = QWebEngineProfile(), Requests()
    profile.setUrlRequestInterceptor(requests)
    page = Page(profile)
    view = QWebEngineView()
    view.setPage(page)
    view.resize(1200, 1000)
    view.show()
    rest = iter(lines)

    def following(*_):
        line = next(rest, None)
        if line is None:
            view.grab().save(str(Path(page_file).with_suffix(".png")))
            app.quit()
        else:
            page.runJavaScript(f"(() => {{ {line} }})()", kept)

    def kept(value):
        told["values"].append(value)
        QTimer.singleShot(PAUSE_MS, following)

    page.loadFinished.connect(lambda _: QTimer.singleShot(PAUSE_MS, following))
    QTimer.singleShot(PATIENCE_MS, lambda: app.exit(1))
    page.load(QUrl.fromLocalFile(os.path.abspath(page_file)))
    code = app.exec()
    print(json.dumps(told), flush=True)
    os._exit(code)  # the order in which Qt's objects go is nothing that this is about


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
