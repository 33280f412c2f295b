# SPDX-License-Identifier: Apache-2.0
"""The shapes of an MJCF as triangles, one mesh for each body and colour."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import trimesh
from numpy.typing import NDArray

from smfp_core.specs import FloatArray

# MuJoCo's viewer shows groups 0 to 2; collision shapes are put into 3 by convention.
_LAST_SHOWN_GROUP = 2
_SECTIONS = 32


@dataclass(frozen=True)
class BodyMesh:
    """Triangles in the frame of one body: ``vertices`` [v, 3] in m, ``faces`` [f, 3]."""

    body: int
    rgb: tuple[int, int, int]
    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]


def body_meshes(model: mujoco.MjModel) -> list[BodyMesh]:
    """What there is to see of a model; a body without visible shapes shows its collision shapes.

    Planes are left out: they have no end.
    """
    parts: dict[tuple[int, tuple[int, int, int]], list[trimesh.Trimesh]] = {}
    visible = model.geom_group <= _LAST_SHOWN_GROUP
    for geom in range(model.ngeom):
        body = int(model.geom_bodyid[geom])
        if not visible[geom] and visible[model.geom_bodyid == body].any():
            continue
        mesh = geom_mesh(model, geom)
        if mesh is None:
            continue
        transform = np.eye(4)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        transform[:3, :3], transform[:3, 3] = rotation.reshape(3, 3), model.geom_pos[geom]
        mesh.apply_transform(transform)
        parts.setdefault((body, _colour(model, geom)), []).append(mesh)
    meshes = []
    for (body, rgb), found in parts.items():
        first = np.cumsum([0, *(len(mesh.vertices) for mesh in found[:-1])])
        faces = np.concatenate([mesh.faces + i for mesh, i in zip(found, first, strict=True)])
        vertices = np.concatenate([mesh.vertices for mesh in found]).astype(np.float32)
        meshes.append(BodyMesh(body, rgb, vertices, faces.astype(np.uint32)))
    return meshes


def geom_mesh(model: mujoco.MjModel, geom: int) -> trimesh.Trimesh | None:
    """One shape in its own frame; None for a kind that cannot be drawn."""
    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return trimesh.creation.box(extents=2.0 * size)
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return trimesh.creation.icosphere(subdivisions=3, radius=size[0])
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        return trimesh.creation.icosphere(subdivisions=3).apply_scale(size)
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return trimesh.creation.cylinder(size[0], height=2.0 * size[1], sections=_SECTIONS)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return trimesh.creation.capsule(2.0 * size[1], size[0], count=(_SECTIONS // 2, _SECTIONS))
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return _asset(model, int(model.geom_dataid[geom]))
    return None


def _asset(model: mujoco.MjModel, mesh: int) -> trimesh.Trimesh:
    vertex, vertices = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    face, faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    return trimesh.Trimesh(
        model.mesh_vert[vertex : vertex + vertices],
        model.mesh_face[face : face + faces],
        process=False,
    )


def _colour(model: mujoco.MjModel, geom: int) -> tuple[int, int, int]:
    material = int(model.geom_matid[geom])
    rgba: FloatArray = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
    red, green, blue = (round(255 * float(x)) for x in rgba[:3])
    return red, green, blue
