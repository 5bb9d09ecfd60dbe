"""A video in a real browser: it loads, plays to its end, and lasts as long as it should."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agents.evaluation.recorder import Recorder
from agents.evaluation.runner import episode_seeds, evaluate_policy
from tests.agents.runs import make_config

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

PAGE = b"""<!doctype html>
<video src="/game.mp4" muted></video>
<script>
const video = document.querySelector("video");
const times = [];
function note(now, frame) {
  times.push(frame.mediaTime);
  video.requestVideoFrameCallback(note);
}
function report() {
  const quality = video.getVideoPlaybackQuality();
  fetch("/report", {method: "POST", body: JSON.stringify({
    error: video.error && video.error.message,
    duration: video.duration,
    size: [video.videoWidth, video.videoHeight],
    ended: video.ended,
    pictures: quality.totalVideoFrames,
    seconds: (performance.now() - started) / 1000,
    times,
  })});
}
let started;
video.requestVideoFrameCallback(note);
// It may begin again, where the machine was too busy to go on.
video.onplaying = () => { started ??= performance.now(); };
video.onended = () => setTimeout(report, 200);
video.onerror = report;
video.play();
</script>
"""


def serve(video, reports, arrived):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            is_video = self.path == "/game.mp4"
            body = video if is_video else PAGE
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4" if is_video else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_a_recorded_game_plays_to_its_end_in_chromium(tmp_path):
    config = make_config(max_frames=600)
    recorder = Recorder(tmp_path, config)
    (game,) = evaluate_policy(None, config, "random", episode_seeds(1, 1), [recorder])
    reports, arrived = [], threading.Event()
    server = serve(recorder.videos[0].read_bytes(), reports, arrived)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # A socket's path has at most 107 characters, which the folders of tests may exceed.
    folder = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
    browser = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={folder.name}/profile",
            f"http://127.0.0.1:{server.server_port}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": folder.name},
        start_new_session=True,
    )
    try:
        assert arrived.wait(120), "the browser did not report"
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        folder.cleanup()
        server.shutdown()
        server.server_close()
    (report,) = reports
    assert report["error"] is None
    assert report["ended"]
    assert report["size"] == [640, 480]
    assert report["duration"] == pytest.approx(game.length * 4 / 60, abs=0.05)
    assert report["pictures"] == 2 * game.length
    # At real speed: it takes as long to watch as the console would have taken.
    assert report["seconds"] == pytest.approx(game.length * 4 / 60, abs=2)
    assert report["times"] == sorted(report["times"])
    assert report["times"][-1] > report["duration"] - 0.1
