"""Synthetic photos of faces with the coefficients that made them.

colour      colours of skin, hair, eyes and things
surface     where things are on a face, patterns, the head's own shadows
wardrobe    hair, brows, glasses and clothes as meshes
people      draws of a person: skin, hair, beard, make-up, clothes
scenes      draws of light, view, camera
boxes       what is behind the head and before it: its draws, and how it is painted
painter     light that leaves each vertex
develop     from light to a stored picture
studio      Studio: a picture as a function of (seed, split, person, picture)
shards      data sets on disk, made by this machine or a Dask cluster
live        LiveFaces: faces made while they are trained on
figures     one picture, ingredient by ingredient; what varies
summary     what a data set holds
"""
