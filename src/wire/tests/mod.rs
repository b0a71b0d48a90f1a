//! Tests of both ends of a session together.

mod model;
mod pair;
