"""From a photo to a mesh: the trained network at work, and what it found as files.

pictures: any photo file to pixels, crops     detection: where the faces are
squares: where the network looks in a photo   reconstructor: photo in, Face out
face: one face and its camera                 confidence: how far to trust it
calibration: how confidence is learned        unwrapping: the head laid flat
texture: its colours from the photo           mesh_files: OBJ, PLY and GLB
units: sliders of a named expression each     viewer: one HTML page for one face
video_files: videos as pictures               video: one person over time
results: files of a folder of photos
commands: `e2far reconstruct`, `e2far video`
"""
