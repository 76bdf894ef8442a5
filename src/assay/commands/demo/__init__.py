"""assay demo"""
