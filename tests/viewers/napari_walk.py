"""What a person does in napari: a scan, a sentence by VoxTell's plugin, a click by nnInteractive's

test_napari.py runs it in the Python of napari. MEDALS_KEY and the voxel to click on, MEDALS_CLICK, are in the environment; screenshots,
masks and what.json go into FOLDER:

    python napari_walk.py head.nii.gz http://127.0.0.1:1527 FOLDER"""
import json
import os
import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QPoint, QSettings, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

WAIT = 600  # Seconds, for a busy machine without a GPU
SIZE = 1220,800


def until(true, what):
    "Let Qt work until something is so"
    end = time.monotonic()+WAIT
    while not true():
        if time.monotonic()>end: raise SystemExit(f'waited for {what} in vain')
        QApplication.processEvents()
        time.sleep(.02)


def picture(viewer, path):
    for _ in range(30):
        QApplication.processEvents()
        time.sleep(.02)
    viewer.screenshot(str(path), canvas_only=False)


def press(button):
    QTest.mouseClick(button, Qt.LeftButton)


def ask_by_sentence(viewer, url, key, out):
    "VoxTell's plugin: remote, connect, type, submit"
    dock,widget = viewer.window.add_plugin_dock_widget('napari-voxtell', 'VoxTell')
    dock.setMinimumWidth(380)
    widget.mode_selection.setCurrentIndex(1)
    widget.server_url_input.setText(url)
    widget.api_key_input.setText(key)
    press(widget.init_button)
    until(lambda: widget.remote_client is not None, 'the server, as VoxTell\'s plugin sees it')
    widget.text_input.setFocus()
    QTest.keyClicks(widget.text_input, 'white matter')
    QTest.keyClick(widget.text_input, Qt.Key_Return)
    QTest.keyClicks(widget.text_input, 'cerebral ventricles')
    before = len(viewer.layers)
    press(widget.submit_button)
    until(lambda: len(viewer.layers)>before, 'masks of two sentences')
    labels = viewer.layers[-1]
    area = widget.parentWidget().parentWidget()
    if hasattr(area, 'ensureWidgetVisible'): area.ensureWidgetVisible(widget.submit_button)
    picture(viewer, out/'sentence.png')
    legend = {str(k): v for k,v in labels.metadata['voxtell_legend'].items()}
    np.save(out/'sentence.npy', np.asarray(labels.data))
    viewer.window.remove_dock_widget(dock)
    viewer.layers.remove(labels)
    return legend


def click_on(viewer, world):
    "A click of the mouse on a place of the slice that is shown"
    native = viewer.window._qt_viewer.canvas.native
    y,x = [world[i] for i in viewer.dims.displayed]
    centre = viewer.camera.center[-2:]
    zoom = viewer.camera.zoom/native.devicePixelRatioF()
    at = QPoint(round(native.width()/2+(x-centre[1])*zoom), round(native.height()/2+(y-centre[0])*zoom))
    QTest.mouseMove(native, at)
    for _ in range(5): QApplication.processEvents()
    QTest.mouseClick(native, Qt.LeftButton, Qt.NoModifier, at)


def ask_by_click(viewer, url, key, out):
    "nnInteractive's plugin: remote, address, initialize, click"
    dock,widget = viewer.window.add_plugin_dock_widget('napari-nninteractive', 'nnInteractive')
    dock.setMinimumWidth(380)
    widget.server_url_edit.setText(url)
    widget.api_key_edit.setText(key)
    press(widget.connect_btn)
    until(lambda: widget._remote_connected, 'the server, as nnInteractive\'s plugin sees it')
    widget.image_selection.setCurrentText(viewer.layers[0].name)
    press(widget.init_button)
    until(lambda: any('Point' in type(o).__name__ for o in viewer.layers), 'the session')
    voxel = [int(o) for o in json.loads(os.environ['MEDALS_CLICK'])]
    scale = viewer.layers[0].scale
    viewer.dims.set_point(viewer.dims.not_displayed[0], voxel[viewer.dims.not_displayed[0]]*scale[viewer.dims.not_displayed[0]])
    click_on(viewer, [v*s for v,s in zip(voxel, scale)])
    labels = viewer.layers[widget.label_layer_name]
    until(lambda: np.asarray(labels.data).any(), 'the mask of a click')
    picture(viewer, out/'click.png')
    np.save(out/'click.npy', np.asarray(labels.data))
    points = next(o for o in viewer.layers if 'Point' in type(o).__name__)
    return np.asarray(points.data).round().astype(int).tolist()


def main(scan, url, out):
    QSettings.setPath(QSettings.NativeFormat, QSettings.UserScope, str(Path(out)/'settings')) # none of a person's own
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(*SIZE)
    viewer.open(scan, plugin='napari-voxtell')
    image = viewer.layers[0]
    viewer.dims.set_point(0, image.data.shape[0]//2*image.scale[0])
    out,key = Path(out),os.environ.get('MEDALS_KEY', '')
    legend = ask_by_sentence(viewer, url, key, out)
    clicked = ask_by_click(viewer, url, key, out)
    from importlib.metadata import version
    packages = {name: version(name) for name in ('napari','napari-voxtell','napari-nninteractive','nninteractive-client')}
    said = dict(legend=legend, clicked=clicked, shape=list(image.data.shape), packages=packages)
    (out/'what.json').write_text(json.dumps(said))
    viewer.close()


if __name__=='__main__': main(*sys.argv[1:])
