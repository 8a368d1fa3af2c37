"""Pictures are pictures, show what they should, and the optional viewer says how to get it."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from jepa_core.contracts import BadSample
from jepa_lidar.geometry import Boxes
from jepa_lidar.simulate import Sensor, simulate_scene
from jepa_lidar.view import load_for_view, range_image, scan_figure, show_interactive


def pixels(png: bytes) -> np.ndarray:
    return image.imread(io.BytesIO(png), format="png")[..., :3]


def test_figure_shows_points_and_boxes() -> None:
    scene = simulate_scene(1, Sensor(azimuths=128, beams=32))
    with_boxes = scan_figure(scene.points, scene.boxes, "A scene")
    without = scan_figure(scene.points, None, "A scene")
    assert with_boxes == scan_figure(scene.points, scene.boxes, "A scene")
    one, two = pixels(with_boxes), pixels(without)
    assert one.shape == two.shape and (np.abs(one - two).max(axis=2) > 0.3).sum() > 500
    orange = np.array([1.0, 0.69, 0.0])
    assert (np.abs(one - orange).max(axis=2) < 0.02).sum() > 200  # the colour of cars


@pytest.mark.parametrize("count", [0, 1])
def test_figure_of_nearly_nothing(count: int) -> None:
    nothing = Boxes(np.zeros((0, 7), np.float32), ())
    assert pixels(scan_figure(np.ones((count, 4), np.float32), nothing, "")).size > 0


def test_range_image_keeps_the_nearest_and_puts_left_on_the_left() -> None:
    points = np.array([[10, 9, 0, 0], [20, 18, 0, 0], [10, -9, -1, 0]], np.float32)
    picture, extent = range_image(points, rows=10, columns=20)
    rows, columns = np.nonzero(np.isfinite(picture))
    assert extent[:2] == (90.0, -90.0) and len(rows) == 2
    left = picture[rows[columns < 10], columns[columns < 10]]
    np.testing.assert_allclose(left, [np.hypot(10, 9)], rtol=1e-6)
    assert rows[columns < 10] < rows[columns >= 10]
    assert range_image(points * np.array([-1, 1, 1, 1], np.float32))[1][0] == 180.0


def test_viewer_without_open3d_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ValueError, match=r"pip install open3d.*libusb-1.0") as caught:
        show_interactive(np.zeros((1, 4), np.float32), None)
    assert "\n" not in str(caught.value)


def test_viewer_draws_points_frame_and_every_box(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    shape = SimpleNamespace(paint_uniform_color=lambda colour: None)
    window = SimpleNamespace(
        create_window=lambda window_name: True,
        add_geometry=drawn.append,
        get_render_option=SimpleNamespace,
        run=lambda: None,
        destroy_window=lambda: None,
    )
    fake = SimpleNamespace(
        geometry=SimpleNamespace(
            PointCloud=lambda points: SimpleNamespace(points=points),
            TriangleMesh=SimpleNamespace(create_coordinate_frame=lambda size: "frame"),
            LineSet=lambda points, lines: shape,
        ),
        utility=SimpleNamespace(Vector3dVector=np.asarray, Vector2iVector=np.asarray),
        visualization=SimpleNamespace(Visualizer=lambda: window),
    )
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "open3d", fake)
    scene = simulate_scene(1, Sensor(azimuths=64, beams=32))
    show_interactive(scene.points, scene.boxes)
    assert len(drawn) == 2 + len(scene.boxes) and drawn[0].colors.shape == (len(scene.points), 3)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_viewer_without_a_display_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ValueError, match="needs a display"):
        show_interactive(np.zeros((1, 4), np.float32), None)


def test_load_for_view_reads_boxes_beside_the_scan(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    np.array([[1, 2, 3, 0.5]], np.float32).tofile(tmp_path / "scans/000007.bin")
    head = "frame,track_id,class,x,y,z,length,width,height,yaw\n"
    (tmp_path / "boxes_lidar.csv").write_text(head + "7,0,Car,1,2,3,4,2,1.5,0.1\n8,0,Van,1,2,3,4,2,1.5,0.1\n")
    points, boxes = load_for_view(tmp_path / "scans/000007.bin")
    assert points.shape == (1, 4) and boxes is not None and boxes.names == ("Car",)
    np.testing.assert_allclose(boxes.values, [[1, 2, 3, 4, 2, 1.5, 0.1]], rtol=1e-6)
    with pytest.raises(BadSample):
        load_for_view(tmp_path / "scans/000008.bin")
