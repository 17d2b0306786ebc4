"""Reading scheduled modules: loops with their lengths, collectives with their bytes, and what hides them."""

import pytest

from lwm.compilation.collectives import collectives
from lwm.compilation.hlo import Module, largest, size

TEXT = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input.1: f32[8,128]) -> f32[2,128] {
  %input.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[8,128]{1,0:T(8,128)} all-reduce(%input.1), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %dynamic-slice.1 = f32[2,128]{1,0} dynamic-slice(%all-reduce.9), dynamic_slice_sizes={2,128}
}

%body (p: (s32[], bf16[4,128], s32[])) -> (s32[], bf16[4,128], s32[]) {
  %p = (s32[]{:T(128)}, bf16[4,128]{1,0:T(8,128)(2,1)}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[4,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %n = s32[]{:T(128)} get-tuple-element(%p), index=2
  %one = s32[]{:T(128)} constant(1)
  %send = (bf16[4,128]{1,0}, bf16[4,128]{1,0}, u32[], u32[]) collective-permute-start(%x), """ + (
    """source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, metadata={op_name="jit(f)/while/body/ppermute"}
  %product = bf16[4,128]{1,0} fusion(%x), kind=kOutput, calls=%add
  %arrived = bf16[4,128]{1,0} collective-permute-done(%send)
  %late = (bf16[4,128]{1,0}, bf16[4,128]{1,0}, u32[], u32[]) collective-permute-start(%product), """
    """source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %small = bf16[4,128]{1,0} fusion(%x), kind=kLoop, calls=%add
  %lately = bf16[4,128]{1,0} collective-permute-done(%late)
  %next = s32[]{:T(128)} add(%i, %one)
  ROOT %out = (s32[]{:T(128)}, bf16[4,128]{1,0}, s32[]{:T(128)}) tuple(%next, %arrived, %n)
}

%condition (q: (s32[], bf16[4,128], s32[])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[4,128]{1,0}, s32[]{:T(128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} get-tuple-element(%q), index=2
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (x0: bf16[4,128], y0: f32[8,128]) -> bf16[4,128] {
  %x0 = bf16[4,128]{1,0:T(8,128)(2,1)} parameter(0)
  %y0 = f32[8,128]{1,0} parameter(1)
  %start = s32[]{:T(128)} constant(2)
  %begin = s32[]{:T(128)} copy(%start)
  %seven = s32[]{:T(128)} constant(7)
  %gathered = f32[32,128]{1,0} all-gather(%y0), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %scattered = f32[2,128]{1,0} fusion(%y0), kind=kCustom, calls=%all-reduce-scatter.1
  %summed = f32[8,128]{1,0} all-reduce(%y0), replica_groups=mesh['a'=2,'b'=4], """
    """device_ids=([2,4]T(0,1)) {'b'}, to_apply=%add
  %state = (s32[], bf16[4,128]{1,0}, s32[]) tuple(%begin, %x0, %seven)
  %loop = (s32[], bf16[4,128]{1,0}, s32[]) while(%state), condition=%condition, body=%body
  ROOT %result = bf16[4,128]{1,0} get-tuple-element(%loop), index=1
}
"""
)


def test_collectives_of_a_module_with_a_loop():
    found = {own.name: own for own in collectives(Module(TEXT))}
    KIB = 1024
    assert {name: (own.kind, own.group, own.bytes, own.times) for name, own in found.items()} == {
        "gathered": ("all-gather", 4, 3 * 4 * KIB, 1),
        "scattered": ("reduce-scatter", 4, 3 * KIB, 1),
        "summed": ("all-reduce", 4, 6 * KIB, 1),
        "send": ("collective-permute", 4, KIB, 5),
        "late": ("collective-permute", 4, KIB, 5),
    }
    assert [own.name for own in found.values() if own.hidden] == ["send"]
    assert [own.name for own in found.values() if own.loops] == ["send", "late"]
    assert found["send"].where == "jit(f)/while/body/ppermute"
    assert all(own.certain for own in found.values())


def test_a_loop_whose_length_is_told_needs_no_reading_of_its_condition():
    # As the CPU compiler writes it: the comparison is in a fusion.
    text = TEXT.replace("compare(%j, %limit), direction=LT", "fusion(%j, %limit), kind=kLoop, calls=%add")
    unknown = {own.name: own for own in collectives(Module(text))}
    assert (unknown["send"].times, unknown["send"].certain) == (1, False)
    told = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    known = {own.name: own for own in collectives(Module(text.replace("body=%body", told)))}
    assert (known["send"].times, known["send"].certain) == (5, True)


def test_loop_of_unknown_length_counts_once_and_says_so():
    text = TEXT.replace("%seven = s32[]{:T(128)} constant(7)", "%seven = s32[]{:T(128)} add(%begin, %begin)")
    found = {own.name: own for own in collectives(Module(text))}
    assert (found["send"].times, found["send"].certain) == (1, False)
    assert found["summed"].certain


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("bf16[2,3]", 12), ("(f32[4], (s8[8], pred[]))", 25), ("s4[6]", 3), ("token[]", 0)],
)
def test_size_of_a_shape_in_bytes(shape, expected):
    assert size(shape) == expected


def test_largest_arrays_come_first_and_parameters_are_none():
    assert [total for total, _, _ in largest(Module(TEXT), 2)] == [32 * 128 * 4, 8 * 128 * 4]
