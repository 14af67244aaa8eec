//! Laws that hold for every kind of a part, whether or not its author wrote a test.

mod samplers;
