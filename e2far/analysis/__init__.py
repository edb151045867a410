"""What each layer of the network knows (notebook 3).

features          what the layers make of pictures, as vectors
probes            what a linear reader finds in them
similarity        which features move, agree, confuse
counterfactuals   pictures with one factor changed; pictures unlike training's
occlusion         where in the picture an answer is read
figures           the figures of notebook 3
"""
