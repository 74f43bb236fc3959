//! How the token mask of a grammar is encoded, for every backend.
//!
//! Each token of the vocabulary has a 16-bit code: its kind in the upper bits and, for a patch token, its grid cell in
//! the lower [`CELL_BITS`]. The build script passes these constants to the compiler of the CUDA sources.

/// Bits of a code that hold a patch token's cell.
pub const CELL_BITS: u32 = 10;

/// The kind of patch tokens: the number of its bit in a set of kinds.
pub const PATCH_KIND: u16 = 9;

/// Cells on each side of the patch grid.
pub const GRID_SIDE: u32 = 32;

const _: () = assert!(GRID_SIDE * GRID_SIDE <= 1 << CELL_BITS && PATCH_KIND < 1 << (16 - CELL_BITS));

/// The constants as macro definitions for `select_token.cu`.
pub fn macros() -> [(&'static str, String); 3] {
    [
        ("TOKEN_CELL_BITS", CELL_BITS.to_string()),
        ("TOKEN_PATCH_KIND", PATCH_KIND.to_string()),
        ("TOKEN_GRID_SIDE", GRID_SIDE.to_string()),
    ]
}
