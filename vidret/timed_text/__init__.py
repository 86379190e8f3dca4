"""Audio, frames and subtitles to text with times. Nothing here imports torch: decoding processes load it."""
