//! What every driver must do, as a suite that each implementation runs.
