//! Tests of stages that need no modality.
