"""Readers: folders and survey files to arrays that the encoders and the training loop take."""
