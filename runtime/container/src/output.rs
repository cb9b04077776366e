//! Kept output of containers.
