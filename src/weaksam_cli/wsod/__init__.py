"""Stage `wsod`: a detector learned from proposals and image-level labels (WSDDN, OICR, MIST)."""
