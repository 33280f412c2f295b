# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import numpy as np
import pytest

from smfp_core.specs import (
    GOAL_SOFTENING_M,
    GOAL_SOFTENING_RAD,
    PUSH_DISTANCE_M,
    PUSH_LIFT_M,
    ObservationField,
    ObservationSpec,
    RobotState,
    build_observation,
    way_behind,
)
from smfp_core.strict import ConfigError

STATE = RobotState(
    joint_position_rad=np.array([1.0, 2.0]),
    joint_velocity_rad_s=np.array([3.0, 4.0]),
    reference_position_rad=np.array([1.5, 2.25]),
    reference_velocity_rad_s=np.array([5.0, 6.0]),
    tool_position_m=np.array([0.1, 0.2, 0.3]),
)
SPEC = ObservationSpec(
    (
        ObservationField("goal_offset", 3, "m", "base_link"),
        ObservationField("tracking_error", 2, "rad"),
        ObservationField("joint_velocity", 2, "rad/s"),
    )
)


def test_observation_is_the_fields_in_order():
    observation = build_observation(SPEC, STATE, np.array([1.1, 0.2, 0.0]))
    assert observation.dtype == np.float32
    np.testing.assert_allclose(observation, [1.0, 0.0, -0.3, 0.5, 0.25, 3.0, 4.0], atol=1e-6)


def test_observation_can_be_written_without_allocation():
    out = np.empty(SPEC.size, np.float32)
    assert build_observation(SPEC, STATE, np.zeros(3), out) is out


def test_field_of_another_length_is_an_error():
    spec = ObservationSpec((ObservationField("joint_position", 3, "rad"),))
    with pytest.raises(ValueError):
        build_observation(spec, STATE, np.zeros(3))


def test_unknown_field_is_named():
    with pytest.raises(ConfigError, match="'colour' is unknown"):
        ObservationSpec((ObservationField("colour", 3, "rgb"),))


def test_goal_gradient_is_the_jacobian_transposed_times_a_softened_direction():
    jacobian = np.arange(6.0).reshape(3, 2)
    state = replace(STATE, tool_jacobian_m_rad=jacobian)
    spec = ObservationSpec((ObservationField("goal_gradient", 2, "m/rad"),))
    goal = STATE.tool_position_m + np.array([0.3, 0.0, 0.4])
    expected = np.array([0.3, 0.0, 0.4]) @ jacobian / (0.5 + GOAL_SOFTENING_M)
    np.testing.assert_allclose(build_observation(spec, state, goal), expected, rtol=1e-6)
    at_goal = build_observation(spec, state, STATE.tool_position_m)
    np.testing.assert_array_equal(at_goal, [0.0, 0.0])


def test_pushing_steps_lead_behind_the_object_and_along_its_way_with_the_tool_upright():
    # A tool that points down, over joints that move and turn it along and about the axes.
    state = replace(
        STATE,
        tool_jacobian_m_rad=np.eye(6)[:3],
        tool_turn_jacobian=np.eye(6)[3:],
        tool_orientation=np.array([1.0, 0.0, 0.0, 0.0]),
        tool_position_m=np.array([0.4, 0.3, 0.1]),
        object_position_m=np.array([0.5, 0.0, 0.025]),
    )
    fields = [ObservationField(f"object_{name}_step", 6, "") for name in ("approach", "push")]
    goal = np.array([0.7, 0.0, 0.025])

    def steps(state: RobotState) -> np.ndarray:
        return build_observation(ObservationSpec(tuple(fields)), state, goal).reshape(2, 6)

    behind = np.array([0.5 - PUSH_DISTANCE_M - 0.4, -0.3, 0.025 + PUSH_LIFT_M - 0.1])
    along = np.array([0.2, 0.0, behind[2]])
    for step, way in zip(steps(state), (behind, along), strict=True):
        np.testing.assert_allclose(step[:3], way / (np.abs(way).max() + 0.1), rtol=0.01)
        np.testing.assert_allclose(step[3:], 0.0, atol=1e-9)
    half = 0.1  # turned about the x axis by pi and twice that, so it is to turn back
    tilted = replace(state, tool_orientation=np.array([math.cos(half), 0, 0, -math.sin(half)]))
    turns = steps(tilted)[:, 3:]
    assert np.all(turns[:, 0] < -0.1)
    np.testing.assert_allclose(turns[:, 1:], 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="how the tool is turned"):
        steps(replace(state, tool_orientation=None))


POSED = replace(
    STATE, tool_orientation=np.array([0.0, 0.0, 0.0, 1.0]), tool_turn_jacobian=np.zeros((3, 2))
)
TURN = ObservationSpec((ObservationField("goal_rotation", 3, "rad", "base_link"),))


def test_goal_rotation_is_the_rotation_vector_onto_the_goal():
    half = 0.25
    goal = np.array([1.1, 0.2, 0.0, 0.0, np.sin(half), 0.0, np.cos(half)])
    np.testing.assert_allclose(build_observation(TURN, POSED, goal), [0.0, 0.5, 0.0], atol=1e-6)


def test_goal_step_shrinks_to_nothing_at_the_goal_and_is_bounded_far_away():
    jacobian = np.random.default_rng(0).standard_normal((6, 2))
    state = replace(POSED, tool_jacobian_m_rad=jacobian[:3], tool_turn_jacobian=jacobian[3:])
    spec = ObservationSpec((ObservationField("goal_step", 2, ""),))
    here = np.array([*STATE.tool_position_m, 0.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(build_observation(spec, state, here), [0.0, 0.0])
    small = np.array([1e-3, -2e-3])
    moved = here.copy()
    moved[:3] += jacobian[:3] @ small
    turn = jacobian[3:] @ small
    moved[3:6] = turn / 2
    found = build_observation(spec, state, moved)
    # What the joints lack, over the softening and itself.
    np.testing.assert_allclose(found, small / (2e-3 + GOAL_SOFTENING_RAD), rtol=0.05)
    far = here + np.array([5.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    assert 0.9 < np.abs(build_observation(spec, state, far)).max() < 1.0


def test_only_fields_of_orientation_need_one():
    assert TURN.needs_orientation and not SPEC.needs_orientation
    goal = np.array([1.1, 0.2, 0.0])
    posed = np.array([*goal, 0.0, 0.0, 0.0, 1.0])
    # Where the position is all that counts, a pose is its position.
    np.testing.assert_array_equal(
        build_observation(SPEC, STATE, goal), build_observation(SPEC, STATE, posed)
    )
    for state, given in ((POSED, goal), (STATE, posed)):
        with pytest.raises(ValueError, match="goal_rotation: needs the orientations"):
            build_observation(TURN, state, given)


@pytest.mark.parametrize(
    ("x", "y", "begin", "length"),
    [
        (0.095, 0.0, (0.0, 0.0), 0.0),
        (0.20, 0.0, (-0.105, 0.0), 0.105),
        # A tangent to the circle, then along it.
        (
            -0.19,
            1e-12,
            (0.19 - 0.0475, 0.095 * math.sqrt(0.75)),
            0.095 * (math.sqrt(3.0) + 2.0 * math.pi / 3.0),
        ),
        (0.0, 0.095, (0.095 * math.sin(0.5), 0.095 * (math.cos(0.5) - 1.0)), 0.095 * math.pi / 2),
        # Touching the object from behind costs no way, to overlap does.
        (0.085, 0.0, (0.01, 0.0), 0.0),
        (0.05, 0.0, (0.045, 0.0), 0.03),
    ],
)
@pytest.mark.parametrize("mirrored", [1.0, -1.0])
def test_the_way_to_behind_an_object_leads_around_it(x, y, begin, length, mirrored):
    place, goal = np.array([0.5, 0.1, 0.04]), np.array([0.3, 0.1, 0.04])
    tool = place + np.array([x, mirrored * y, 0.2])
    way = way_behind(tool, place, goal)
    np.testing.assert_allclose(way[0], [begin[0], mirrored * begin[1]], atol=1e-9)
    assert way[1] == pytest.approx(length, abs=1e-9)
