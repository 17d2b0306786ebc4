from lwm.evaluation.rows import lines, replace, rows_of


def test_a_row_stands_beside_its_baseline():
    (row,) = rows_of({"needle_gain": 1.5, "needle_no_gain": 0.0, "needle_samples": 6}, "second")
    assert row == {
        "name": "needle_gain",
        "value": 1.5,
        "unit": "nats/number",
        "baseline": 0.0,
        "baseline_name": "the needle ignored",
        "n": 6,
        "stage": "second",
    }


def test_each_measure_of_text_has_both_baselines():
    values = {"text_bits_per_byte": 2.0, "gzip_bits_per_byte": 3.0, "xz_bits_per_byte": 2.5, "text_bytes": 9}
    assert [(row["value"], row["baseline"]) for row in rows_of(values, "s")] == [(2.0, 3.0), (2.0, 2.5)]


def test_new_rows_replace_those_of_their_stage_only():
    rows = rows_of({"needle_gain": 1.0}, "first")
    rows = replace(rows, rows_of({"needle_gain": 2.0}, "second"))
    rows = replace(rows, rows_of({"needle_gain": 3.0}, "first"))
    assert [(row["stage"], row["value"]) for row in rows] == [("second", 2.0), ("first", 3.0)]


def test_lines_name_value_unit_and_baseline():
    values = {"psnr": 20.04, "psnr_mean_colour": 12.0, "code_usage": 0.5, "frames": 9}
    assert lines(rows_of(values, "s")) == [
        "psnr        20.04 dB (12 by each frame's mean colour)",
        "code_usage  0.5 share",
    ]
