"""The report as a picture. Needs matplotlib, from the extra `bench`."""

from __future__ import annotations

