"""Operators that compute nothing: they move, view, create or select. All others are counted, or listed as uncounted."""

from __future__ import annotations

_BOOKKEEPING = """
    Bool Float Int ScalarImplicit _local_scalar_dense device is_nonzero item numel scalar_tensor size sym_size
"""
_VIEWS = """
    _reshape_alias _unsafe_view alias as_strided as_strided_ atleast_1d broadcast_tensors broadcast_to chunk
    detach detach_ diagonal expand expand_as flatten hsplit imag lift_fresh movedim narrow permute positive real
    reshape reshape_as resolve_conj resolve_neg select slice split split_with_sizes squeeze squeeze_ swapaxes t
    t_ tensor_split transpose transpose_ unbind unflatten unfold unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze unsqueeze_ view view_as view_as_complex view_as_real vsplit
"""
_COPIES = """
    _to_copy alpha_dropout cat channel_shuffle clone concat concatenate constant_pad_nd contiguous copy copy_
    dropout dropout_ embedding feature_dropout flip gather hstack identity im2col index index_copy index_copy_
    index_put index_put_ index_select lift_fresh_copy meshgrid native_channel_shuffle native_dropout pad
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d
    replication_pad2d roll rot90 scatter scatter_ select_scatter slice_scatter stack take tile to tril tril_
    triu triu_ type_as unpool view_copy vstack where
"""
_CREATION = """
    arange empty empty_like empty_permuted empty_strided eye fill_ full full_like linspace new_empty
    new_empty_strided new_full new_ones new_zeros one_hot ones ones_like rand randn tensor zero_ zeros
    zeros_like
"""
FREE = frozenset(f"aten::{name}" for text in (_BOOKKEEPING, _VIEWS, _COPIES, _CREATION) for name in text.split())
