//! The store passes the suite, a pipeline runs with it, and the documentation shows this very code.

mod conformance;
mod documentation;
mod pipeline;
