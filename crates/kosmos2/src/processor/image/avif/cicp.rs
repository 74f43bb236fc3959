//! How samples represent colours.

/// Coding-independent code points (ITU-T H.273), as far as they matter for the conversion to RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cicp {
    /// `ColourPrimaries`.
    pub(super) primaries: u16,
    /// `MatrixCoefficients`.
    pub(super) matrix: u16,
    /// `VideoFullRangeFlag`.
    pub(super) is_full_range: bool,
}
