//! Nothing: what is wanted is what the build script leaves behind.
